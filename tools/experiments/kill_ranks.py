#!/usr/bin/env python3
"""Kills processes of a training run at random times, and says whether what should follow did.

Each round trains the shipped nano model in several processes and kills one of them with SIGKILL at
a random moment. In even rounds the processes are started alone: all others must end with an error,
in time, one of them with a sentence; then the same command is run again. In odd rounds torchrun
starts them and restarts them after the kill. Either way the run must end in the bytes of one that
nobody disturbed. Writes one JSON line a round.

Usage: tools/experiments/kill_ranks.py [--rounds N] [--ranks N] [--seed N] [--build DIR]
           [--torchrun FILE] FILE
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS_TO_END = 20 + 5  # --ddp_timeout below, and what a process may take to notice


def command(build, ranks, output):
    data = ROOT / "assets/nano"
    flags = f"""--model_name_or_path {data}/model --train_file {data}/data/train.json
        --method switch --bit_widths 8 4 --max_steps 60 --lora_r 4 --warmup_steps 5
        --per_device_train_batch_size 2 --gradient_accumulation_steps {4 // ranks} --threads 1
        --save_steps 10 --ddp_timeout 20 --output_dir {output}"""
    return [str(build / "qalof-train"), "train", *flags.split()]


def digest(output):
    files = sorted(pathlib.Path(output).glob("w*/adapter_model.safetensors"))
    whole = b"".join(file.read_bytes() for file in files)
    return hashlib.sha256(whole).hexdigest() if files else None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(words, ranks):
    """The processes of a run, without a launcher."""
    port = str(free_port())
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_PORT": port}
    return [
        subprocess.Popen(
            words,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def finish(processes):
    told = [process.communicate()[1] for process in processes]
    return [process.returncode for process in processes], told


def kill_alone(words, ranks, victim, delay):
    processes = start(words, ranks)
    time.sleep(delay)
    processes[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    codes, told = finish(processes)
    seconds = time.monotonic() - killed
    round_ = {"codes": codes, "seconds_to_end": round(seconds, 2)}
    if codes[victim] == -signal.SIGKILL:
        others = [code for rank, code in enumerate(codes) if rank != victim]
        sentences = sum(text.count("qalof: ") for text in told)
        in_time = all(code > 0 for code in others) and seconds < SECONDS_TO_END
        # Killed while it exits: the others are through.
        over = all(code == 0 for code in others) and sentences == 0
        round_["ended"] = over or (in_time and sentences == 1)
        round_["sentences"] = sentences
    else:  # the run was over before
        round_["ended"] = codes == [0] * ranks
        round_["sentences"] = 0
    again, told = finish(start(words, ranks))
    round_["again"] = again
    return round_, again == [0] * ranks


def workers_of(launcher):
    children = pathlib.Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(pid) for pid in children]


def kill_restarted(torchrun, words, ranks, victim, delay):
    launch = [str(torchrun), "--nproc_per_node", str(ranks)]
    launch += [
        "--max-restarts",
        "3",
        "--monitor-interval",
        "0.2",
        "--master-port",
        str(free_port()),
    ]
    launcher = subprocess.Popen(
        [*launch, "--no-python", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while launcher.poll() is None and len(workers_of(launcher.pid)) < ranks:
        time.sleep(0.02)
    time.sleep(delay)
    killed = False
    if launcher.poll() is None:
        workers = workers_of(launcher.pid)
        if len(workers) > victim:
            os.kill(workers[victim], signal.SIGKILL)
            killed = True
    code = launcher.wait()
    return {"killed": killed, "codes": [code]}, code == 0


def main():
    parser = argparse.ArgumentParser(usage=__doc__[__doc__.index("tools/experiments/kill") :])
    parser.add_argument("file")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    parser.add_argument("--torchrun", type=pathlib.Path, default=ROOT / ".venv/bin/torchrun")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    failed = 0
    with tempfile.TemporaryDirectory() as folder, open(options.file, "w") as lines:
        undisturbed = f"{folder}/undisturbed"
        started = time.monotonic()
        words = command(options.build, options.ranks, undisturbed)
        codes, told = finish(start(words, options.ranks))
        if codes != [0] * options.ranks:
            sys.exit(f"kill_ranks: the undisturbed run failed: {told}")
        seconds, expected = time.monotonic() - started, digest(undisturbed)
        for number in range(options.rounds):
            output = f"{folder}/{number}"
            words = command(options.build, options.ranks, output)
            victim, delay = chance.randrange(options.ranks), chance.uniform(0, seconds)
            restarted = number % 2 == 1
            how = (words, options.ranks, victim, delay)
            round_, ended = (
                kill_restarted(options.torchrun, *how) if restarted else kill_alone(*how)
            )
            same = digest(output) == expected
            failed += not (ended and same and round_.get("ended", True))
            row = {"round": number, "restarted": restarted, "victim": victim}
            row["delay"] = round(delay, 2)
            print(json.dumps({**row, **round_, "same_bytes": same}), file=lines, flush=True)
    print(f"{options.rounds} kills, {failed} with another end than expected")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
