#!/usr/bin/env python3
"""robust.py with a trainer that only pretends: the plan, going on, and the verdicts of its page."""

import io
import json
import pathlib
import signal
import tarfile
import unittest
import xml.etree.ElementTree

import robust
import robust_page
import scratch

SMALL = ("--jobs", "8")


class RobustTest(scratch.Scratch):
    script = "robust.py"

    def setUp(self):
        super().setUp()
        with tarfile.open(self.folder / "cifar10.tar.xz", "w:xz") as archive:
            small = robust.SETTINGS["small"]
            for split, images in (("train", small.train), ("test", small.test)):
                for label in ("cat", "dog"):
                    for i in range(images):
                        member = tarfile.TarInfo(f"cifar/{split}/{label}/{i:04}.jpg")
                        member.size = 1
                        archive.addfile(member, io.BytesIO(bytes([i % 256])))

    def report(self):
        report, figures = self.folder / "docs" / "robust.md", self.folder / "docs" / "images"
        self.assertEqual(robust.main(["--json", str(self.json), "--report", str(report), "--figures", str(figures)]), 0)
        return report.read_text(), figures

    def test_whole_experiment_and_its_report(self):
        out = self.run_it(*SMALL).stdout
        self.assertEqual([out.count(f" {word} ") for word in ("train", "attack", "certify", "dual")], [12, 28, 14, 4])
        record = self.record()
        self.assertEqual((record["done"], record["planned"], record["failed"]), (58, 58, {}))
        self.assertEqual([e["name"] for e in record["runs"]][:7],
                         [f"{kind}-s0" for kind in ("standard", "adversarial", "trades", "rt_er", "rt_er_all", "jtdmoe", "separate")])
        self.assertEqual(len(record["runs"][0]["curve"]), 3)
        text, figures = self.report()
        # what the fake says: RA-R 50, RA-E 10 of all; RA 50 of rt_er against 40, each 1 point up with the seed
        self.assertIn("RA-E is far below RA-R.* **Holds.** +40.00 points, more than the spread of seeds (1.41).", text)
        self.assertIn("in RA (PGD-50).* **Holds.** +10.00 points, more than the spread of seeds (1.41).", text)
        self.assertIn("Lipschitz bounds of the experts.* **Holds.** 2.5 against 5.", text)
        self.assertIn("margins are larger in every class.* **Does not hold.** The margin is larger in 1 of 2 classes.", text)
        self.assertIn("| JTDMoE | 2 |", text)
        for name in ("curve", "alpha"):
            self.assertIn(f"](images/robust-{name}.svg)", text)
            xml.etree.ElementTree.parse(figures / f"robust-{name}.svg")
        for written in [text, self.json.read_text(), *(f.read_text() for f in figures.iterdir())]:
            self.assertNotIn(str(self.folder), written)
            self.assertNotIn(str(scratch.HERE), written)
        images = {split: [len(list(c.iterdir())) for c in (self.work / "images" / split).iterdir()] for split in ("train", "test")}
        self.assertEqual(images, {"train": [500, 500], "test": [100, 100]})
        self.assertNotIn(" train ", self.run_it(*SMALL).stdout)  # all is done

    def test_all_methods_have_the_same_steps_and_attack(self):
        options, _ = robust.studies.parse(robust.studies.parser("robust.py", "", robust.SETTINGS, ""),
                                          ["--data", "d", "--work", str(self.work), "--json", str(self.json)])
        study = robust.Study(options, [])
        flags = {p.kind: study.flags(p) for p in study.training if p.seed == 1}
        of = {kind: dict(zip(own[::2], own[1::2])) for kind, own in flags.items()}
        for key in ("--epochs", "--batch", "--experts", "--resnet-widths", "--attack-step", "--eps", "--seed"):
            self.assertEqual(len({own[key] for own in of.values()}), 1, key)
        self.assertEqual([of[kind]["--objective"] for kind in robust.KINDS],
                         ["supervised", "adversarial", "trades", "rt_er", "rt_er", "jtdmoe"])
        self.assertEqual([kind for kind in of if "--rt-er-experts" in of[kind]], ["rt_er_all"])

    def test_the_backend_of_the_trainings_is_that_of_every_command(self):
        out = self.run_it(*SMALL, "--", "--backend", "cuda", "--tf32").stdout
        words = [line.split() for line in out.splitlines() if "fake_trainer.py" in line]
        self.assertEqual(len(words), 58)
        for line in words:
            self.assertEqual(line[line.index("--backend") + 1], "cuda", line)
            self.assertEqual(line.count("--backend"), 1)
            self.assertEqual("--tf32" in line, "train" in line)

    def test_the_last_backend_counts(self):
        self.assertEqual(robust.backend_of(["--backend", "cpu", "--backend=cuda", "--beta", "1"]), ["--backend=cuda"])
        self.assertEqual(robust.backend_of(["--backend=cpu", "--backend", "cuda"]), ["--backend", "cuda"])
        self.assertEqual(robust.backend_of(["--beta", "1"]), [])

    def test_a_subset_is_the_first_images_of_each_class(self):
        target = self.work / "part"
        robust.subset(self.folder / "cifar10.tar.xz", target, 2, 1)
        self.assertEqual(sorted(str(p.relative_to(target)) for p in target.rglob("*.jpg")),
                         ["test/cat/0000.jpg", "test/dog/0000.jpg", "train/cat/0000.jpg", "train/cat/0001.jpg",
                          "train/dog/0000.jpg", "train/dog/0001.jpg"])
        self.assertEqual((target / "train/dog/0001.jpg").read_bytes(), b"\x01")
        (target / "train/dog/0001.jpg").unlink()
        robust.subset(self.folder / "cifar10.tar.xz", target, 2, 1)  # is there already
        self.assertFalse((target / "train/dog/0001.jpg").exists())
        other = self.work / "of_a_folder"
        robust.subset(target, other, 1, 1)
        self.assertEqual(len(list(other.rglob("*.jpg"))), 4)
        (other / "train/dog/0000.jpg").write_bytes(b"another set")
        again = self.work / "of_another"
        robust.subset(target, again, 1, 1)
        robust.subset(other, again, 1, 1)  # as many, of other data
        self.assertEqual((again / "train/dog/0000.jpg").read_bytes(), b"another set")
        with self.assertRaisesRegex(ValueError, "no images"):
            robust.subset(pathlib.Path(scratch.HERE), self.work / "none", 1, 1)

    def test_a_class_with_fewer_images_is_an_error(self):
        archive, target = self.folder / "cifar10.tar.xz", self.work / "part"
        robust.subset(archive, target, 2, 1)
        with self.assertRaisesRegex(ValueError, r"cifar10\.tar\.xz: the class 'cat' has 500 images in 'train', expected at least 501$"):
            robust.subset(archive, target, 501, 1)
        self.assertFalse(target.exists())
        robust.subset(archive, target, 2, 1)  # what was there before is not taken to be there still
        self.assertEqual(len(list(target.rglob("*.jpg"))), 6)
        (target / "train/dog/0001.jpg").unlink()
        (target / "test/dog/0000.jpg").unlink()
        for train, test, said in ((2, 1, "'dog' has 1 images in 'train', expected at least 2"),
                                  (1, 1, "'dog' has 0 images in 'test', expected at least 1")):
            with self.assertRaisesRegex(ValueError, said):
                robust.subset(target, self.work / "none", train, test)
        self.assertFalse((self.work / "none").exists())

    def test_images_that_are_too_few_end_the_program(self):
        (self.folder / "cifar10.tar.xz").unlink()
        with tarfile.open(self.folder / "cifar10.tar.xz", "w:xz") as archive:
            archive.addfile(tarfile.TarInfo("cifar/train/cat/0000.jpg"), io.BytesIO(b""))
        done = self.run_it(*SMALL, code=2)
        self.assertIn("the class 'cat' has 1 images in 'train', expected at least 500", done.stderr)

    def test_the_small_setting_fits_two_hours_of_two_cores(self):
        out = self.run_it("--dry-run").stdout
        self.assertRegex(out.splitlines()[-1], r"^about (\d\d|1[0-3]\d) min with 2 at a time \(by a first guess\)$")
        self.assertFalse(self.work.exists() or self.json.exists())

    def test_interrupted_it_goes_on_and_keeps_what_is_done(self):
        process = self.begin(*SMALL, "--jobs", "1", FAKE_STEPS="100000", FAKE_SECONDS="0.02")
        metrics = self.work / "standard-s0" / "metrics.jsonl"
        self.wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 6)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=scratch.WAIT), 130)
        before = len(metrics.read_text().splitlines())
        out = self.run_it(*SMALL, FAKE_STEPS=str(before + 4)).stdout
        self.assertEqual(out.count("--resume"), 1)
        self.assertEqual(self.record()["done"], 58)

    def test_a_model_that_fails_leaves_the_others(self):
        self.run_it(*SMALL, code=1, FAKE_FAIL="jtdmoe")
        record = self.record()
        self.assertEqual(sorted(record["failed"]), ["jtdmoe-s0", "jtdmoe-s1"])
        self.assertEqual(record["done"], 48)
        text, _ = self.report()
        self.assertIn("in RA (AutoAttack).* No verdict: 0 seeds of one side", text)

    def test_a_budget_ends_it_between_runs(self):
        self.assertIn("runs are left for another time", self.run_it("--budget", "0.01").stdout)
        self.assertEqual(json.loads(self.json.read_text())["runs"], [])


class JumpsTest(unittest.TestCase):
    def test_the_second_half_of_the_curve_counts(self):
        curve = [[i, 0, ra] for i, ra in enumerate([0, 50, 0, 10, 12, 9])]
        self.assertAlmostEqual(robust_page.jumps({"curve": curve}), 2.5)
        self.assertIsNone(robust_page.jumps({"curve": curve[:3]}))

    def test_not_lower(self):
        self.assertIn("**Holds.** +1.00", robust_page.not_lower([2.0, 2.0], [1.0, 1.0]))
        self.assertIn("**Lower in the mean, not decided.** -1.00", robust_page.not_lower([0.0, 2.0], [1.0, 3.0]))
        self.assertIn("**Does not hold.** -1.00", robust_page.not_lower([1.0, 1.0], [2.0, 2.0]))


if __name__ == "__main__":
    unittest.main()
