#!/usr/bin/env python3
"""Fuzzers of every decoder (fuzz/): build them, run each for a while from the golden fixtures, minimise what is found.

    fuzz.py SECONDS [TARGET ...]    run
    fuzz.py --check                 every file that decodes is named by a target; runs nothing

Coverage comes from LLVM's own instrumentation, which stable Rust can switch on; libFuzzer comes with the crate
libfuzzer-sys. What was learned stays in SYNOD_FUZZ_CORPUS (target/fuzz/corpus), inputs that break something go to
target/fuzz/found.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUZZ = ROOT / "fuzz"
OUT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "fuzz"
CORPUS = Path(os.environ.get("SYNOD_FUZZ_CORPUS", OUT / "corpus"))
FOUND = OUT / "found"
MINIMISE_S = 30
# As many at once as there are cores, unless told.
JOBS = int(os.environ.get("SYNOD_FUZZ_JOBS") or os.cpu_count() or 1)

# Instrumentation, and the checks of a debug build in optimised code.
FLAGS = [
    "-Cpasses=sancov-module",
    *(
        f"-Cllvm-args=-sanitizer-coverage-{option}"
        for option in ("level=4", "inline-8bit-counters", "pc-table", "trace-compares")
    ),
    "--cfg=fuzzing",
]
FIXTURES = ("crates/*/tests/fixtures/**/*", "crates/*/tests/**/fixtures/**/*")
# A function of this name, in a crate that knows nothing of PostgreSQL, takes bytes that a stranger may have made.
DECODER = re.compile(
    r"\bfn (?:decode\w*\b|(?:scan|take|get_\w+|parse\w*|from_hex|numeric)\s*(?:<[^>]*>)?\([^)]*\b(?:bytes|input|stream|data|text)\b)"
)
DECODING = ("crates/paxos/src", "crates/log/src", "crates/change/src", "crates/rules/src", "crates/sinks/src")
# Of the extension, what is free of the server.
DECODING_FILES = (
    "crates/extension/src/identity/codec.rs",
    "crates/extension/src/local_key.rs",
    "crates/extension/src/text.rs",
    "crates/extension/src/handshake.rs",
)


def targets() -> list[str]:
    return sorted(path.stem for path in (FUZZ / "src/bin").glob("*.rs"))


def check() -> int:
    """Names the files with decoders that no target covers."""
    covered = set()
    for target in targets():
        covered.update(re.findall(r"crates/[\w/]+\.rs", (FUZZ / f"src/bin/{target}.rs").read_text()))
    decoding = set(DECODING_FILES)
    for tree in DECODING:
        for path in (ROOT / tree).rglob("*.rs"):
            if "tests" not in path.parts and DECODER.search(path.read_text()):
                decoding.add(str(path.relative_to(ROOT)))
    gone = sorted(name for name in covered if not (ROOT / name).exists())
    for name in sorted(decoding - covered):
        print(f"{name}: decodes bytes, and no target in fuzz/src/bin says that it covers it")
    for name in gone:
        print(f"{name}: covered by a target in fuzz/src/bin, but not there")
    return 1 if decoding - covered or gone else 0


def host() -> str:
    told = subprocess.check_output(["rustc", "-vV"], text=True)
    return re.search(r"^host: (.*)$", told, re.M).group(1)


def build(names: list[str]) -> Path:
    """With --target, the flags are for the fuzzers only, not for build scripts."""
    triple = host()
    # libFuzzer is C++; the packages that building needs have clang.
    compiler = {} if shutil.which("c++") else {"CXX": "clang++"}
    environment = {
        **os.environ,
        **compiler,
        "CARGO_TARGET_DIR": str(OUT),
        "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(FLAGS),
    }
    bins = [part for name in names for part in ("--bin", name)]
    subprocess.run(
        ["cargo", "build", "--quiet", "--locked", "--release", "--target", triple, *bins],
        cwd=FUZZ, env=environment, check=True,
    )  # fmt: skip
    return OUT / triple / "release"


def seed(name: str) -> Path:
    """The golden fixtures, each as a file of its own; a text fixture holds a line of hexadecimal digits per value."""
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for pattern in FIXTURES:
        for path in ROOT.glob(pattern):
            if not path.is_file() or "proptest" in path.name:
                continue
            data = path.read_bytes()
            values = [data]
            if path.suffix == ".txt":
                lines = data.decode(errors="replace").split()
                values = [bytes.fromhex(line) for line in lines if re.fullmatch(r"(?:[0-9a-f]{2})+", line)]
            for value in values:
                (corpus / f"fixture-{hashlib.sha1(value).hexdigest()[:16]}").write_bytes(value)
    # Inputs that once broke something, kept for good.
    for path in (FUZZ / "regressions" / name).glob("*"):
        (corpus / path.name).write_bytes(path.read_bytes())
    return corpus


def run(program: Path, seconds: int) -> bool:
    name = program.name
    corpus = seed(name)
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    for old in found.glob("*"):
        old.unlink()
    log = OUT / f"{name}.log"
    # A backtrace takes more memory than a target may.
    environment = {**os.environ, "RUST_BACKTRACE": "0"}
    if Path("/dev/shm").is_dir():
        environment["TMPDIR"] = "/dev/shm"
    options = [
        f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=1536", "-max_len=8192", "-print_final_stats=1",
        f"-artifact_prefix={found}/",
    ]  # fmt: skip
    with log.open("w") as output:
        status = subprocess.run(
            [program, *options, corpus], stdout=output, stderr=subprocess.STDOUT, env=environment
        ).returncode
    told = log.read_text(errors="replace")
    runs = re.search(r"number_of_executed_units: (\d+)", told)
    edges = re.findall(r"cov: (\d+)", told)
    print(f"{name}: {runs.group(1) if runs else '?'} runs, {edges[-1] if edges else '?'} edges", flush=True)
    if status == 0:
        return True
    for crash in sorted(found.glob("*")):
        small = found / "minimised"
        subprocess.run(
            ["timeout", str(MINIMISE_S), program, "-minimize_crash=1", f"-exact_artifact_path={small}", crash],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
        print(f"{name} fails: {small if small.exists() else crash}; see {log}")
        break
    else:
        print(f"{name} fails: see {log}")
    panicked = [line for line in told.splitlines() if "panicked at" in line or "SUMMARY" in line or "assert" in line]
    print("\n".join(panicked[:6]))
    return False


def main() -> int:
    arguments = sys.argv[1:]
    if arguments == ["--check"]:
        return check()
    if not arguments or not arguments[0].isdigit() or arguments[0] == "0":
        print(__doc__, file=sys.stderr)
        return 2
    names = arguments[1:] or targets()
    programs = build(names)
    with ThreadPoolExecutor(JOBS) as pool:
        sound = list(pool.map(lambda name: run(programs / name, int(arguments[0])), names))
    return 0 if all(sound) else 1


if __name__ == "__main__":
    sys.exit(main())
