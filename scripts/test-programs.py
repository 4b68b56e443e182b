"""Lists the test programs that `cargo test --no-run --message-format=json` built: name, package directory, path.

A name is the package's, without `pathlab-`, and the target's: `netlab/lab`, and `pathlab/lab` of the package at the root.
"""

import json
import os
import sys

for line in open(sys.argv[1]):
    message = json.loads(line)
    if message.get("reason") == "compiler-artifact" and message.get("executable") and message["profile"]["test"]:
        directory = os.path.dirname(message["manifest_path"])
        # ...#NAME@VERSION, or ...#VERSION where the folder has the name.
        name, at, _ = message["package_id"].rpartition("#")[2].partition("@")
        package = (name if at else os.path.basename(directory)).removeprefix("pathlab-")
        print(package + "/" + message["target"]["name"], directory, message["executable"], sep="\t")
