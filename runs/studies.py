"""Runs that a study makes once. Each has a name, a result file, and a line in the study's log.

    study = Study("bias")
    study.main(plan(), run, sys.argv[1:])    # run(name) makes a run and saves its result

Trainings go to OUT/runs, data to OUT/data, results to OUT/results (OUT: out/NAME). What is there is
used again and an interrupted training continues, so the same command finishes what is missing.
"""

import functools
import gzip
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "runs"), str(ROOT / "runs/reward")]
import student  # noqa: E402
from measures import write_rows  # noqa: E402

# GRPO of a judge or a policy of the tiny world, and the rest of a policy's settings
GRPO = "--num_generations 8 --prompts_per_step 16 --learning_rate 1e-4 --dtype float32 "
POLICY = (
    GRPO
    + """--max_steps 40 --save_every 20 --eval_every 40 --eval_limit 1000
    --max_completion_length 64"""
)


class Study:
    def __init__(self, name):
        self.out = Path(os.environ.get("OUT", ROOT / "out" / name)).resolve()
        self.log = ROOT / "runs" / name / "logs/results.jsonl.gz"

    def rows(self, name, make):
        """The path of a data file; make(): its rows, if it is missing."""
        path = self.out / "data" / f"{name}.jsonl"
        if not path.exists():
            write_rows(path.with_suffix(".part"), make()).rename(path)
        return path

    def questions(self):
        """The path of the questions, without answers, that policies learn from."""
        return self.rows("questions", lambda: itertools.islice(student.questions(False), 8000))

    def answers(self, count):
        """The path of the held-out questions, with answers."""
        make = functools.partial(itertools.islice, student.questions(True), count)
        return self.rows(f"answers_{count}", make)

    def train(self, program, name, options, **flags):
        """The last checkpoint of a training, made if it is missing."""
        folder, options = self.out / "runs" / name, options.split()
        last = folder / f"checkpoint-{options[options.index('--max_steps') + 1]}"
        if not last.exists():
            command = [sys.executable, program, "--output_dir", str(folder), "--resume", *options]
            for flag, value in flags.items():
                command += [f"--{flag}", str(value)]
            folder.parent.mkdir(parents=True, exist_ok=True)
            environment = os.environ | {"PYTHONPATH": str(ROOT), "OUT": str(self.out)}
            with open(f"{folder}.log", "a") as log:
                subprocess.run(
                    command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=True
                )
        return last

    def finished(self, name):
        return (self.out / "results" / f"{name}.json").exists()

    def save(self, name, result):
        path = self.out / "results" / f"{name}.json"
        write_rows(path.with_suffix(".part"), [{"name": name} | result]).rename(path)

    def collect(self):
        """{name: result} of OUT and of the log. What only one of them has is added to the other."""
        found = {}
        if self.log.exists():
            lines = gzip.decompress(self.log.read_bytes()).decode().splitlines()
            found = {row["name"]: row for row in map(json.loads, lines)}
            for name in found:
                if not self.finished(name):
                    self.save(name, found[name])
        for path in self.out.glob("results/*.json"):
            found[path.stem] = json.loads(path.read_text())
        if found:
            text = "".join(json.dumps(found[name]) + "\n" for name in sorted(found))
            self.log.parent.mkdir(exist_ok=True)
            self.log.write_bytes(gzip.compress(text.encode(), mtime=0))
        return found

    def main(self, names, run, wanted):
        """Makes the runs that are missing, in order.

        wanted: parts of names, to make only some of them; or ["list"], which prints all names.
        """
        self.collect()
        for name in names:
            if wanted == ["list"]:
                print(name, "finished" if self.finished(name) else "")
            elif not self.finished(name) and any(part in name for part in wanted or [""]):
                print(name, flush=True)
                try:
                    run(name)
                except subprocess.CalledProcessError:
                    print(f"failed: {name}: see {self.out}/runs/*.log", file=sys.stderr)
