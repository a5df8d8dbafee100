"""How much does bare glass in a tile change the stain of the tissue beside it?

    python benchmarks/glass.py colon/valA batch.safetensors instance.safetensors

Of every tile the right half becomes glass, the colour of the brightest pixel. What lies further from it than the
generator looks must not change; what does change there comes from the statistics of the norm.
"""

import argparse
from pathlib import Path

import torch

from restain.checkpoint import load_generator
from restain.folders import list_images
from restain.image import load_image, to_tensor


def main() -> None:
    """Print, for each checkpoint, the mean change in grey levels beyond the halo, and of the worst tile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiles", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for path in given.checkpoints:
        generator, changes, whiter = load_generator(path), [], []
        for file in list_images(given.tiles):
            he = to_tensor(load_image(file))
            half = he.shape[-1] // 2
            glass = he.clone()
            brightest = he.mean(1).flatten().argmax()
            glass[..., half:] = he.flatten(2)[..., brightest].view(1, 3, 1, 1)
            beyond = half - generator.halo_px
            with torch.no_grad():
                before, after = (generator(x)[..., :beyond] * 127.5 for x in (he, glass))
            changes.append(float((after - before).abs().mean()))
            whiter.append(float((after - before).mean()))
        values = torch.tensor(changes)
        print(
            f"{path.stem}: {beyond} columns beyond {generator.halo_px} px; change {values.mean():.2f} grey levels, "
            f"worst tile {values.max():.2f}, mean brightening {torch.tensor(whiter).mean():+.2f}"
        )


if __name__ == "__main__":
    main()
