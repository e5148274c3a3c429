"""Have a server edit an image: start one with `joyimage serve --model tiny`, then run this with its URL."""

import sys
from pathlib import Path

from joyimage.client import Client
from joyimage.tiny.examples import load_example

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8600"

# The client needs neither torch nor the model; it retries while the server is busy.
with Client(url) as client:
    (file,) = client.edit(
        load_example("shapes").image,
        "Recolor the heart orange.",
        seed=0,
        progress=lambda progress: print(progress, file=sys.stderr),
    )
Path("from_server.png").write_bytes(file)
