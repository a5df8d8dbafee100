"""What guidance does in a VSMT run: is the teacher ahead of the student, and does it pull where the other terms pull?

    python benchmarks/guidance.py RUN DATA [--pairs 20] [--crop-px 128]

RUN is the folder of a run, DATA its data set. On held-out pairs, prints how far the virtual IHC (v) and the guided one
(v_g), which teaches, are from the real IHC, and of the terms of the generator's loss the norms of their gradients and
the cosines of these with the gradient of guidance, at full strength. Where the truth lies beside the tiles
(`valB_aligned`), distances are to it.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from restain.data.pairs import Pair, PairedTiles
from restain.folders import list_images
from restain.image import load_image, to_tensor
from restain.losses.adversarial import lsgan_generator_loss
from restain.losses.pyramid import gaussian_pyramid_loss
from restain.losses.statistics import spread_loss
from restain.methods.base import Progress, frozen
from restain.methods.nce import NCE_TAPS, nce
from restain.methods.vsmt import Vsmt
from restain.methods.vsmt.method import FIRST_LEVEL, GUIDED_TAPS
from restain.networks.sampler import sample_positions
from restain.training.trained import load_method

TERMS = ("gan", "nce", "pyramid", "spread", "guidance")


def main() -> None:
    """Look at some held-out pairs and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--crop-px", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    method = load_method(arguments.run)
    if not isinstance(method, Vsmt) or not method.config.guidance:
        parser.error(f"{arguments.run} is no run of vsmt with guidance")
    pairs = PairedTiles(arguments.data, "val", grades="none")
    aligned = {path.stem: path for folder in arguments.data.rglob("valB_aligned") for path in list_images(folder)}
    away: list[list[float]] = []
    pulls: list[Tensor] = []
    step = max(1, len(pairs) // arguments.pairs)
    for index in range(0, len(pairs), step):
        pair = middle(pairs[index], arguments.crop_px)
        virtual, guided, terms = look(method, pair, Progress(0, index, 1, 1))
        truth = pair.ihc
        if pair.names[0] in aligned:
            register = replace(pairs[index], ihc=to_tensor(load_image(aligned[pair.names[0]])))
            truth = middle(register, arguments.crop_px).ihc
        away.append([float(F.l1_loss(image, truth)) for image in (virtual, guided)])
        away[-1] += [float(gaussian_pyramid_loss(image, truth)) for image in (virtual, guided)]
        pulls.append(torch.stack([gradient(method, terms[name]) for name in TERMS]))
    means = torch.tensor(away).mean(0).tolist()
    print(f"{len(away)} pairs\n\n| distance to the real IHC | v | v_g |\n|---|---:|---:|")
    print(f"| L1 | {means[0]:.4f} | {means[1]:.4f} |\n| pyramid | {means[2]:.4f} | {means[3]:.4f} |\n")
    norms = torch.stack([pull.norm(dim=1) for pull in pulls]).median(0).values
    along = torch.stack([F.cosine_similarity(pull, pull[-1:], dim=1) for pull in pulls]).median(0).values
    print("| term | norm of the gradient, median | cosine with guidance, median |\n|---|---:|---:|")
    for name, norm, cosine in zip(TERMS, norms.tolist(), along.tolist(), strict=True):
        print(f"| {name} | {norm:.3g} | {cosine:+.3f} |")


def middle(pair: Pair, side: int) -> Pair:
    """The middle of a pair's images."""
    top, left = ((length - side) // 2 for length in pair.he.shape[-2:])
    part = (..., slice(top, top + side), slice(left, left + side))
    return replace(pair, he=pair.he[part], ihc=pair.ihc[part])


def look(method: Vsmt, pair: Pair, progress: Progress) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The virtual IHC, the guided one, and the terms of the generator's loss as its step adds them up."""
    config, generator = method.config, method.generator
    virtual, student = generator.forward_with_features(pair.he, {*NCE_TAPS, *GUIDED_TAPS})
    with torch.no_grad():
        evidence = method._gather(pair, virtual.detach())
        alignment = method.spatial.match(evidence.virtual, evidence.reference, progress.generator("clusters"))
        guidance = method._guidance(evidence, alignment)
        first = student[FIRST_LEVEL]
        guided, teacher = generator.forward_with_features(first, GUIDED_TAPS, inject=guidance, after=FIRST_LEVEL)
    taps = {tap: student[tap] for tap in NCE_TAPS}
    positions = sample_positions(taps, progress.generator("positions"), config.positions)
    query = generator.features(virtual, NCE_TAPS)
    with frozen(method.discriminator):
        gan = lsgan_generator_loss(method.discriminator(virtual))
    distances = [method._guidance_distance(student[tap], teacher[tap]) for tap in GUIDED_TAPS]
    terms = {
        "gan": gan,
        "nce": config.lambda_nce * nce(method.sampler, query, student, positions),
        "pyramid": config.lambda_pyramid * gaussian_pyramid_loss(virtual, pair.ihc),
        "spread": spread_loss(virtual, pair.ihc, config.lambda_spread),
        "guidance": config.lambda_guidance * torch.stack(distances).sum(),
    }
    return virtual.detach(), guided, terms


def gradient(method: Vsmt, term: Tensor) -> Tensor:
    """Of one term, with respect to all weights of the generator, as one vector."""
    weights = [weight for weight in method.generator.parameters() if weight.requires_grad]
    parts = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
    return torch.cat([
        (torch.zeros_like(weight) if part is None else part).flatten()
        for weight, part in zip(weights, parts, strict=True)
    ])  # fmt: skip


if __name__ == "__main__":
    main()
