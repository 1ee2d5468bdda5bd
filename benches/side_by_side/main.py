"""The command line: which measures, how many runs, where the results go."""

import argparse
import json
import sys

from . import cache, get, nat, swarm, transfer, utp, yielding
from .lab import Lab, machine
from .procs import Failed
from .table import targets_table

MEASURES = {"transfer": transfer.run, "get": get.run, "swarm": swarm.run, "cache": cache.run, "utp": utp.run, "nat": nat.run, "yield": yielding.run}


def arguments():
    parser = argparse.ArgumentParser(
        prog="benches/run.py",
        description="Dovetail beside other programs, as real processes on this machine.",
        epilog="Targets are shown, not enforced: the exit code only says whether every run moved the right bytes.",
    )
    parser.add_argument("measures", nargs="*", metavar="transfer|get|swarm|cache|utp|nat|yield|all", default=["all"])
    parser.add_argument("--quick", action="store_true", help="small files, one run each: does it work at all")
    parser.add_argument("--long", action="store_true", help="also what takes minutes by itself (yield: two devices)")
    parser.add_argument("--drawing", metavar="FILE", help="where `yield` draws its lines over time [target/yielding.svg]")
    parser.add_argument("--runs", type=int, default=0, help="runs of each program")
    parser.add_argument("--json", metavar="FILE", help="write everything measured here, too")
    parser.add_argument("--program", metavar="PATH", help="the dovetail to measure [target/release/dovetail]")
    parser.add_argument("--dir", metavar="DIR", help="where files lie meanwhile [/dev/shm if it has room]")
    args = parser.parse_args()
    if "all" in args.measures:
        args.measures = list(MEASURES)
    for name in args.measures:
        if name not in MEASURES:
            parser.error(f"there is no measure {name}")
    return args


def main():
    args = arguments()
    try:
        lab = Lab(args)
    except Failed as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 2
    tables, targets, results, status = [], [], {}, 0
    try:
        facts = machine(lab)
        for name in args.measures:
            print(f"running {name}", file=sys.stderr, flush=True)
            try:
                more, aims, runs = MEASURES[name](lab)
            except Failed as failed:
                print(f"error: {name}: {failed}", file=sys.stderr)
                status = 1
                continue
            tables += more
            targets += aims
            results[name] = runs
            for table in more:
                print(table, flush=True)
        facts = machine(lab) | {"load": f"{facts['load']} before, {machine(lab)['load']} after"}
    finally:
        lab.remove()
    if targets:
        print(targets_table(targets))
    print("\n" + "; ".join(f"{key} {value}" for key, value in facts.items()))
    for line in lab.skipped + lab.notes:
        print(line)
    if args.json:
        everything = {
            "quick": args.quick,
            "machine": facts,
            "results": results,
            "targets": [target.summary() for target in targets],
            "skipped": lab.skipped,
        }
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(everything, file, indent=1)
    return status
