"""How fast images are read: JPEG by PIL and by torchvision's operator, in one thread and in more.

Pictures are waves with noise, 500 x 375 pixels at quality 90 (about the size of those of ImageNet),
and are made each time. `decode` is the pixels alone; `image_folder` is what a run does: a file is
read, decoded, resized to 256, cropped to 224 and normalised. CPU time is that of the process::

    python -m benchmarks.reading --images 64 --repeats 5
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data import decoding, open_source, read_one

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

THREADS = (1, 2)


def pictures(n: int) -> list[bytes]:
    """Return JPEG files."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:375, 0:500] / 500
    found = []
    for _ in range(n):
        a, b, phase = rng.uniform(5, 60, 3), rng.uniform(5, 60, 3), rng.uniform(0, 6, 3)
        waves = np.sin(rows[..., None] * a + columns[..., None] * b + phase)
        noisy = 127 + 70 * waves + rng.normal(0, 15, waves.shape)
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def by_pil(content: bytes) -> Tensor:
    """Return pixels as `decoding.decode` does without the operator."""
    with Image.open(io.BytesIO(content)) as image:
        return torch.from_numpy(np.array(image)).movedim(-1, 0)


def compare_pixels(contents: Sequence[bytes]) -> None:
    """Print how far the two are apart."""
    apart = [(by_pil(each).int() - decoding.decode(each).int()).abs() for each in contents]
    largest = max(int(each.max()) for each in apart)
    mean = float(torch.stack([each.double().mean() for each in apart]).mean())
    print(f"pixels differ by {mean:.4f} on the average, {largest} at most")


def measure(name: str, work: Callable[[int], object], n_images: int, repeats: int) -> None:
    """Print images a second and CPU time an image, best of all repeats."""
    for n_threads in THREADS:
        wall, cpu = [], []
        with ThreadPoolExecutor(n_threads) as pool:
            for _ in range(repeats + 1):
                clock, used = time.perf_counter(), time.process_time()
                list(pool.map(work, range(n_images)))
                wall.append(time.perf_counter() - clock)
                cpu.append(time.process_time() - used)
        # the first round loads libraries
        rate, each = n_images / min(wall[1:]), min(cpu[1:]) / n_images * 1e3
        print(f"{name:32} {n_threads} threads {rate:7.0f} images/s {each:6.2f} ms CPU an image")


def main() -> None:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    contents = pictures(arguments.images)
    sizes = (len(contents), arguments.repeats)
    compare_pixels(contents)
    measure("decode, PIL", lambda n: by_pil(contents[n]), *sizes)
    measure("decode, torchvision's operator", lambda n: decoding.decode(contents[n]), *sizes)
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(contents):
            Path(folder, f"{number:04}.jpg").write_bytes(content)
        config = DataConfig(source="image_folder", path=folder, resize=256, crop=224)
        source = open_source(config, Path(folder))
        records = source.records()
        measure("image_folder", lambda n: read_one(source, records[n]), *sizes)
        operator = decoding._native
        decoding._native = lambda content, mode: None
        measure("image_folder, PIL", lambda n: read_one(source, records[n]), *sizes)
        decoding._native = operator


if __name__ == "__main__":
    main()
