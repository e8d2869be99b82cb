"""Plays a whole life against the local provider and prints it: `python -m tests.cluster.transcript`.

Of three machines the cheapest never boots and the next is outbid while it boots. While requests run, as a gateway that
reads members.json would send them, a box dies and `watch` replaces it. At the end stands the provider's own book. Real:
every command as a process, TLS, joins. Played: the provider, and the engines, which answer with scripted text.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx2
import yaml

from tests.cluster.fake_boxes import FakeBoxes
from tests.cluster.fake_vast import KEY, FakeVast, offer

ROOT = Path(__file__).parents[2]


def run(*args: str) -> None:
    print(f"\n$ python -m cluster {' '.join(args)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "cluster", *args], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(done.stdout, end="", flush=True)


class Load:
    """Asks members in turn, another one when one fails, until stopped; counts what no member answered."""

    def __init__(self, members: Path) -> None:
        self._members, self._stop = members, threading.Event()
        self.answered = self.retried = self.failed = 0
        self._thread = threading.Thread(target=self._ask_on)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _ask_on(self) -> None:
        while not self._stop.wait(0.02):
            pool = json.loads(self._members.read_text())["members"]
            turn = self.answered % max(1, len(pool))
            answers = (self._ask(member) for member in pool[turn:] + pool[:turn])
            if any(answers):
                self.answered += 1
            else:
                self.failed += 1

    def _ask(self, member: dict[str, str]) -> bool:
        headers = {"authorization": f"Bearer {Path(member['key_file']).read_text()}"}
        context = ssl.create_default_context(cafile=member["ca_file"])
        try:
            url = f"{member['url']}/chat/completions"
            answer = httpx2.post(
                url, json={"max_tokens": 4}, headers=headers, verify=context, timeout=5, trust_env=False
            )
        except httpx2.HTTPError:
            self.retried += 1
            return False
        return answer.status_code == 200


def main() -> None:
    os.environ["VAST_API_KEY"] = KEY
    boxes = FakeBoxes()
    folder = Path(tempfile.mkdtemp(prefix="farthing-transcript-"))
    os.chdir(folder)
    with FakeVast(boxes=boxes) as fake:
        fake.add(offer(101, usd=0.25), boot="stuck")
        fake.add(offer(102, usd=0.27), boot_s=2.0, outbid_after_s=0.5)
        fake.add(*[offer(n, usd=0.30 + n / 1000) for n in range(103, 108)], boot_s=1.0)
        document = {
            "name": "demo",
            "boxes": 2,
            "profile": "qwen3-8b-awq",
            "max_usd_per_hour": 0.45,
            "budget_usd_per_day": 22,
            "interruptible": True,
            "image": {"source": {"url": "https://example.org/farthing.tar.gz", "sha256": "0" * 64}},
            "speed": {"requests": 4, "min_share": 0.01},
            "timing": {"poll_s": 0.2, "boot_s": 6, "settle_s": 1, "missing_s": 1, "unhealthy_s": 1, "drain_s": 0.5},
            "provider": {"url": fake.url, "spacing": 0},
            "state_dir": str(folder),
        }
        file = folder / "cluster.yaml"
        file.write_text(yaml.safe_dump(document))
        run("plan", str(file))
        run("up", str(file))
        print(f"\n$ python -m cluster watch {file} &", flush=True)
        watch = subprocess.Popen(
            [sys.executable, "-m", "cluster", "watch", str(file)], cwd=ROOT, stderr=subprocess.STDOUT
        )
        load = Load(folder / "demo" / "members.json")
        time.sleep(2)
        victim = fake.standing()[0].id
        print(f"-- the host of contract {victim} disappears, under load", flush=True)
        fake.lose(victim)
        time.sleep(8)
        load.stop()
        print(
            f"-- requests answered {load.answered}, asked again elsewhere {load.retried}, failed {load.failed}",
            flush=True,
        )
        run("cost", str(file))
        run("down", str(file))
        watch.terminate()
        watch.wait(20)
        print(
            f"-- the provider's own book: {len(fake.contracts)} rentals made, {len(fake.standing())} standing, ", end=""
        )
        print(f"${fake.book_usd():.4f} billed")
    boxes.close()


if __name__ == "__main__":
    main()
