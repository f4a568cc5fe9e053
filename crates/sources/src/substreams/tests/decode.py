"""Decodes recorded outputs with Google's protobuf and the package's own descriptors.

Arguments: package, full name of the message, recorded outputs, uncompressed. Prints a JSON object a row:
{"table", "block", "row"}, as the rows should be, without the columns in front. The columns of DatabaseChanges
are those of the fields, all as text.
"""

import base64
import json
import sys

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor

package, name, outputs = sys.argv[1:]
files = descriptor_pb2.FileDescriptorSet()
with open(package, "rb") as file:
    files.ParseFromString(file.read())
by_name = {file.name: file for file in files.file}
pool = descriptor_pool.DescriptorPool()
added = set()


def add(file_name):
    if file_name not in added:
        added.add(file_name)
        for dependency in by_name[file_name].dependency:
            add(dependency)
        pool.Add(by_name[file_name])


for file_name in by_name:
    add(file_name)
Output = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def value(field, item):
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return row(item)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return item.hex()
    if field.type == FieldDescriptor.TYPE_ENUM:
        known = field.enum_type.values_by_number.get(item)
        return known.name if known else str(item)
    return item


def row(message):
    columns = {}
    for field in message.DESCRIPTOR.fields:
        item = getattr(message, field.name)
        if field.is_repeated if hasattr(field, "is_repeated") else field.label == FieldDescriptor.LABEL_REPEATED:
            entry = field.message_type
            if entry and entry.GetOptions().map_entry:
                of = entry.fields_by_name["value"]
                columns[field.name] = {str(key): value(of, item[key]) for key in item}
            else:
                columns[field.name] = [value(field, each) for each in item]
        elif not field.has_presence or message.HasField(field.name):
            columns[field.name] = value(field, item)
    return columns


def changes(message):
    for change in message.table_changes:
        operation = change.DESCRIPTOR.fields_by_name["operation"].enum_type.values_by_number[change.operation].name
        columns = {"_operation": operation.removeprefix("OPERATION_")}
        columns.update({field.name: field.new_value for field in change.fields})
        yield change.table, columns


with open(outputs) as file:
    for line in file:
        line = json.loads(line)
        message = Output()
        message.ParseFromString(base64.b64decode(line["output_b64"]))
        if name.endswith(".DatabaseChanges") and "--changes" not in sys.argv:
            rows = changes(message)
        else:
            tables = [field for field in message.DESCRIPTOR.fields if field.message_type]
            rows = ((field.name, row(item)) for field in tables for item in getattr(message, field.name))
        for table, columns in rows:
            print(json.dumps({"table": table, "block": line["number"], "row": columns}))
