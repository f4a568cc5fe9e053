"""Validates what deploy/ has against its schemas, and prints each command of Nozzle in it as JSON:
[{"file", "service", "arguments", "environment"}]. Anything that is not right ends it with a message.

    python deploy.py REPO_ROOT          needs compose-spec and kubernetes-validate of PyPI
"""

import configparser
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib

import compose_spec
import kubernetes_validate
import yaml

KUBERNETES = "1.33"
# Values that the schemas of Kubernetes leave open.
CHOICES = {
    "concurrencyPolicy": {"Allow", "Forbid", "Replace"},
    "restartPolicy": {"Always", "OnFailure", "Never"},
    "podManagementPolicy": {"OrderedReady", "Parallel"},
}
PROGRAM = "/usr/local/bin/nozzle"
INSTANCES = {"nozzle-worker": "worker-01", "nozzle-dump": "eth_mainnet"}
# What a server must limit, as nobody limits it otherwise.
LIMITS = {"max_mem_mb", "query_max_mem_mb", "query_timeout_secs", "max_concurrent_queries"}
SECTIONS = {".service": {"Unit", "Service"}, ".timer": {"Unit", "Timer", "Install"}}
commands = []


def check(is_right, message):
    if not is_right:
        raise ValueError(message)


def found(file, service, arguments, environment, config=()):
    named = {name.removeprefix("NOZZLE_CONFIG_").lower() for name in environment} | set(config)
    check(arguments[0] != "server" or LIMITS <= named, f"{service} does not limit {sorted(LIMITS - named)}")
    commands.append({"file": file, "service": service, "arguments": arguments, "environment": environment})


def dockerfile(path):
    channel = re.search(r'channel = "(.+)"', (path.parents[1] / "rust-toolchain.toml").read_text())[1]
    is_built_with_it = f"FROM rust:{channel}-" in path.read_text()
    check(is_built_with_it, f"it does not build with rust {channel}, as rust-toolchain.toml says")


def compose(path):
    document = yaml.safe_load(path.read_text())
    # As JSON: then what YAML merges is merged.
    compose_spec.PyCompose.from_json(json.dumps(document)).to_spec()
    example = re.findall(r"^(\w+)=", (path.parent / ".env.example").read_text(), re.M)
    lacks = set(re.findall(r"\$\{(\w+)", path.read_text())) - set(example)
    check(not lacks, f".env.example lacks {lacks}")
    services = document["services"]
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            check(other in services, f"{name} depends on {other}, which is not there")
        for port in service.get("ports", []):
            check(port.startswith("127.0.0.1:"), f"{name} publishes {port} to other machines")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            is_there = (path.parent / source).exists() if source.startswith(".") else source in document["volumes"]
            check(is_there, f"{name} has the volume {source}, which is not there")
        if service["image"] == "nozzle":
            environment = {key: value for key, value in service["environment"].items() if "${" not in value}
            config = tomllib.loads((path.parent / "nozzle.toml").read_text())
            found(path.name, name, service["command"], environment, config)


def within(document):
    """All objects in a document, at whatever depth."""
    if isinstance(document, dict):
        yield document
        document = list(document.values())
    for value in document if isinstance(document, list) else []:
        yield from within(value)


def kubernetes(path):
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    named = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    labels = [part["template"]["metadata"]["labels"] for part in within(documents) if "template" in part]
    for document in documents:
        name = document["metadata"]["name"]
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        for part in within(document):
            for key, values in CHOICES.items():
                check(part.get(key) in {None, *values}, f"{name}: {key} is none of {sorted(values)}")
            selector = part.get("selector", {})
            # A Service's is the labels themselves.
            is_met = not selector or selector.get("matchLabels", selector) in labels
            check(is_met, f"{name} selects no pods: {selector}")
        for pod in (part for part in within(document) if "containers" in part):
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            for container in pod["containers"]:
                for mount in container["volumeMounts"]:
                    check(mount["name"] in volumes, f"{name}: there is no volume {mount['name']}")
                    source = volumes[mount["name"]].get("configMap")
                    content = named.get(("ConfigMap", source["name"]), {}).get("data", {}) if source else {}
                    # A mounted folder has each file three times, by way of ..data: providers of one name.
                    check(not source or mount.get("subPath") in content, f"{name}: {mount} is no file of {source}")
                for source in container["envFrom"]:
                    check(("Secret", source["secretRef"]["name"]) in named, f"{name}: there is no {source}")
                environment = {variable["name"]: variable.get("value") for variable in container["env"]}
                for variable in (variable for variable in container["env"] if "valueFrom" in variable):
                    is_name = variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
                    check(is_name, f"{name}: {variable} is not the pod's name")
                    # The name of the first pod of a StatefulSet.
                    environment[variable["name"]] = f"{name}-0"
                found(path.name, name, container["args"], environment)


def systemd(folder):
    with tempfile.TemporaryDirectory() as copies:
        for path in sorted(folder.iterdir()):
            text = path.read_text().replace("\\\n", " ")
            unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=", comment_prefixes="#;")
            unit.optionxform = str
            unit.read_string(text, path.name)
            lacks = SECTIONS[path.suffix] - set(unit.sections())
            check(not lacks, f"{path.name} lacks {lacks}")
            for other in re.findall(r"nozzle-[\w@]+\.service", " ".join(unit["Unit"].values())):
                check((folder / other).exists(), f"{path.name} names {other}, which is not there")
            template, at, _ = path.stem.partition("@")
            instance = INSTANCES[template] if at else ""
            if path.suffix == ".service":
                program, *arguments = shlex.split(unit["Service"]["ExecStart"].replace("%i", instance))
                check([program, arguments[0]] == [PROGRAM, "--config"], f"{path.name}: not {PROGRAM} --config")
                check(unit["Service"].get("User") == "nozzle", f"{path.name}: it does not run as nozzle")
                environment = shlex.split(unit["Service"].get("Environment", ""))
                found("systemd", path.stem, arguments[2:], dict(pair.split("=", 1) for pair in environment))
            # Neither the program nor the user is on this machine.
            text = text.replace(PROGRAM, "/bin/true").replace("User=nozzle\n", "")
            (pathlib.Path(copies) / f"{path.stem}{instance}{path.suffix}").write_text(text)
        if shutil.which("systemd-analyze"):
            verify = ["systemd-analyze", "verify", "--man=no", *map(str, pathlib.Path(copies).iterdir())]
            done = subprocess.run(verify, capture_output=True, text=True)
            # What it says of units of this machine is not about these.
            said = [line for line in (done.stdout + done.stderr).splitlines() if copies in line or "nozzle" in line]
            check(not said, "\n".join(said))


PLACES = {"Dockerfile": dockerfile, "compose/compose.yaml": compose, "systemd": systemd}
for place, step in (PLACES | {"kubernetes/nozzle.yaml": kubernetes}).items():
    try:
        step(pathlib.Path(sys.argv[1], "deploy", place))
    except Exception as error:  # of several libraries, without a common class
        sys.exit(f"deploy/{place}: {type(error).__name__}: {str(error) or vars(error)}")
print(json.dumps(commands, indent=1))
