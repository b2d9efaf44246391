"""What the tests of studies have in common."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
WAIT = 60  # seconds for something that takes far less


class Scratch(unittest.TestCase):
    """A script of this folder runs with the trainer that only pretends, in a folder of its own."""
    script = "router_study.py"

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.work, self.json = self.folder / "work", self.folder / "out" / "study.json"
        # Started a thousand times: by this very Python, without what it looks for at its start
        self.trainer = self.folder / "fake_trainer.py"
        self.trainer.write_text(f"#!{sys.executable} -IS\n" + (HERE / "fake_trainer.py").read_text())
        self.trainer.chmod(0o755)

    def command(self, *more, script=None):
        return [sys.executable, str(HERE / (script or self.script)), "--data", str(self.folder / "cifar10.tar.xz"), "--work", str(self.work),
                "--json", str(self.json), "--program", str(self.trainer), *more]

    def run_it(self, *more, code=0, **environment):
        done = subprocess.run(self.command(*more), env=dict(os.environ, **environment), capture_output=True, text=True,
                              timeout=10 * WAIT, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def begin(self, *more, **environment):
        process = subprocess.Popen(self.command(*more), env=dict(os.environ, **environment), stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        self.addCleanup(process.stdout.close)
        return process

    def record(self):
        return json.loads(self.json.read_text())

    def steps(self, name):
        return [json.loads(line)["step"] for line in (self.work / name / "metrics.jsonl").read_text().splitlines()]

    def wait_for(self, condition):
        deadline = time.monotonic() + WAIT
        while not condition():
            self.assertLess(time.monotonic(), deadline, "what was waited for did not come")
            time.sleep(0.02)
