"""Validates what deploy/ has against its schemas, and prints each command of Nozzle in it as JSON:
[{"file", "arguments", "environment"}]. Anything that is not right ends it with a message."""

import configparser
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile

import compose_spec
import kubernetes_validate
import yaml

KUBERNETES = "1.33"
ROOT = pathlib.Path(sys.argv[1])
INSTANCES = {"nozzle-worker@.service": "worker-01", "nozzle-dump@.service": "eth_mainnet"}
commands = []


def found(file, arguments, environment):
    commands.append({"file": file, "arguments": arguments, "environment": environment})


def compose(path):
    document = yaml.safe_load(path.read_text())
    # As JSON: then what YAML merges is merged.
    compose_spec.PyCompose.from_json(json.dumps(document)).to_spec()
    services = document["services"]
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            assert other in services, f"{name} depends on {other}, which is not there"
        volumes = [volume.split(":")[0] for volume in service.get("volumes", [])]
        for source in volumes:
            is_there = (path.parent / source).exists() if source.startswith(".") else source in document["volumes"]
            assert is_there, f"{name} has the volume {source}, which is not there"
        if service["image"] == "nozzle":
            environment = {key: value for key, value in service["environment"].items() if "${" not in value}
            found(path.name, service["command"], environment)


def pods(document):
    """The pod templates in a document, at whatever depth."""
    if isinstance(document, dict):
        if "containers" in document:
            yield document
        for value in document.values():
            yield from pods(value)


def kubernetes(path):
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        for pod in pods(document):
            for volume in pod["volumes"]:
                source = volume.get("configMap")
                assert source is None or ("ConfigMap", source["name"]) in names, f"no ConfigMap {source}"
            for container in pod["containers"]:
                environment = {}
                for variable in container["env"]:
                    by_name = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath") == "metadata.name"
                    # The first pod of a StatefulSet.
                    first = f"{document['metadata']['name']}-0"
                    environment[variable["name"]] = first if by_name else variable["value"]
                found(path.name, container["args"], environment)


def systemd(folder):
    with tempfile.TemporaryDirectory() as copies:
        for path in sorted(folder.iterdir()):
            unit = configparser.ConfigParser(strict=False, interpolation=None)
            unit.optionxform = str
            unit.read_string(path.read_text())
            text = path.read_text().replace("/usr/local/bin/nozzle", "/bin/true").replace("User=nozzle", "User=root")
            (pathlib.Path(copies) / path.name).write_text(text)
            if path.suffix == ".service":
                line = unit["Service"]["ExecStart"].replace("%i", INSTANCES.get(path.name, ""))
                program, *arguments = shlex.split(line)
                assert program == "/usr/local/bin/nozzle" and arguments[0] == "--config", line
                found("systemd", arguments[2:], {})
        units = [name.replace("@.", "@x.") for name in (path.name for path in sorted(folder.iterdir()))]
        for name in units:
            template = pathlib.Path(copies) / name.replace("@x.", "@.")
            (pathlib.Path(copies) / name).write_text(template.read_text())
        paths = [str(pathlib.Path(copies) / name) for name in units]
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True)
        # What it says of units of this machine is not about these.
        said = [line for line in (done.stdout + done.stderr).splitlines() if "nozzle" in line]
        assert not said, "\n".join(said)


compose(ROOT / "deploy/compose/compose.yaml")
kubernetes(ROOT / "deploy/kubernetes/nozzle.yaml")
systemd(ROOT / "deploy/systemd")
print(json.dumps(commands, indent=1))
