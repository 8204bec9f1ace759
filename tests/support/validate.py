#!/usr/bin/env python3
"""What others make of the output of hob export.

  validate.py kubernetes FILE    every document against the schemas of Kubernetes; prints them as JSON
  validate.py compose FILE       against the compose schema; prints it as JSON
  validate.py yaml FILE          prints what PyYAML reads (YAML 1.1, as kubectl and compose do)
"""
import importlib.util
import json
import pathlib
import sys

import yaml

kind, path = sys.argv[1:]


class Loader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys in silence."""


def mapping(loader, node):
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key stands twice: {keys}"
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


Loader.add_constructor("tag:yaml.org,2002:map", mapping)
documents = [d for d in yaml.load_all(open(path, encoding="utf-8"), Loader) if d is not None]
if kind == "kubernetes":
    import kubernetes_validate

    for document in documents:
        for version in ("1.25", kubernetes_validate.latest_version()):
            kubernetes_validate.validate(document, version, strict=True)
elif kind == "compose":
    import jsonschema

    package = pathlib.Path(importlib.util.find_spec("compose").origin).parent
    schema = json.loads((package / "config/compose_spec.json").read_text())
    jsonschema.validate(documents[0], schema, cls=jsonschema.Draft201909Validator)
print(json.dumps(documents))
