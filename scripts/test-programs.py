"""Lists the test programs that `cargo test --no-run --message-format=json` built: name, package directory, path."""

import json
import os
import sys

for line in open(sys.argv[1]):
    message = json.loads(line)
    if message.get("reason") == "compiler-artifact" and message.get("executable") and message["profile"]["test"]:
        directory = os.path.dirname(message["manifest_path"])
        print(os.path.basename(directory) + "/" + message["target"]["name"], directory, message["executable"], sep="\t")
