"""A training with a board and an address: told, interrupted, resumed with another; its report keeps secrets."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

import mlx_voxclone
from mlx_voxclone.files.run_log import LOG_NAME, read_log

pytest_plugins = ["commands"]
pytestmark = [pytest.mark.usefixtures("no_fsync"), pytest.mark.slow]


@pytest.fixture
def posts():
    found = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            found.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/T0/secret", found
        server.shutdown()


def test_a_run_is_shown_and_told_of(config_file, tmp_path, posts):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    address, told = posts
    content = yaml.safe_load(config_file("encoder").read_text(encoding="utf-8"))
    content["data"]["path"], content["model"] = Path(content["data"]["path"]), Path(content["model"])

    def stop_at_two(done, total, what):
        if what == "encoder" and done == 2:
            raise KeyboardInterrupt

    given = {"output": tmp_path / "run", "notify": [address], "report_to": ["tensorboard"]}
    with pytest.raises(KeyboardInterrupt):
        mlx_voxclone.train(content, progress=stop_at_two, **given)
    run = mlx_voxclone.train(content, resume=tmp_path / "run", **{**given, "notify": [address, address + "2"]})
    reader = EventAccumulator(str(tmp_path / "run" / "boards" / "tensorboard"))
    reader.Reload()
    (loss,) = (tag for tag in reader.Tags()["scalars"] if tag.endswith("/loss") and "heldout" not in tag)
    logged = {record["step"] for record in read_log(tmp_path / "run" / LOG_NAME) if "event" not in record}
    assert {event.step for event in reader.Scalars(loss)} == logged >= {1, 3, 4}
    assert [b'"interrupted"' in told[0], b'"finished"' in told[1], len(told)] == [True, True, 3]
    page = run.report.read_text(encoding="utf-8")
    assert "notify:" in page
    assert "secret" not in page
