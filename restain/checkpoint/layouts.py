"""Names of tensors in the weight files of other projects, by our names.

CycleGAN, PyramidP2P (batch norm), CUT, ASP, PSPStain, SIM-GAN, M2PL-GAN, MDCL and VSMT all number the layers of one
sequence. The U-Net of pix2pix nests: each level contains the next coarser one.
"""

from restain.networks.auxiliary import Autoencoder, Classifier
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.unet import UNet, UNetConfig

PublishedNetwork = Generator | UNet | Autoencoder | Classifier

_PARAMETERS = {
    "weight": "weight",
    "bias": "bias",
    "running_mean": "running_mean",
    "running_var": "running_var",
    "num_batches_tracked": "num_batches_tracked",
    "parametrizations.weight.original": "weight_orig",
    "parametrizations.weight.0._u": "weight_u",
    "parametrizations.weight.0._v": "weight_v",
}
"""Names inside a layer: ours, theirs. They use the older form of spectral norm."""


def published_names(network: PublishedNetwork) -> dict[str, str]:
    """The published name of each tensor in the network's state dict."""
    if isinstance(network, UNet):
        stages, layers = "", _unet_layers(network.config)
    elif isinstance(network, Generator):
        stages, layers = "stages.", _generator_layers(network.config)
    else:
        stages, layers = "stages.", _auxiliary_layers(network)
    candidates = {
        f"{stages}{layer}.{parameter}": f"{published_layer}.{published_parameter}"
        for layer, published_layer in layers.items()
        for parameter, published_parameter in _PARAMETERS.items()
    }
    return {name: candidates[name] for name in network.state_dict()}


def _generator_layers(config: GeneratorConfig) -> dict[str, str]:
    """Convolutions and their norms: ours, theirs. An up stage may begin with a blur."""
    blur = int(config.antialias)
    down2, blocks = (8, 12) if config.antialias else (7, 10)
    up1 = blocks + config.blocks + blur
    up2 = up1 + 3 + blur
    layers = {
        "stem.0": "model.1",
        "stem.1": "model.2",
        "down1": "model.4",
        "shrink1.0": "model.5",
        "down2": f"model.{down2}",
        "shrink2.0": f"model.{down2 + 1}",
        f"up1.{blur}": f"model.{up1}",
        f"up1.{blur + 1}": f"model.{up1 + 1}",
        f"up2.{blur}": f"model.{up2}",
        f"up2.{blur + 1}": f"model.{up2 + 1}",
        "output.1": f"model.{up2 + 4}",
    }
    second = 6 if config.dropout else 5
    for index in range(config.blocks):
        for layer in (1, 2, second, second + 1):
            layers[f"block{index}.body.{layer}"] = f"model.{blocks + index}.conv_block.{layer}"
    return layers


def _auxiliary_layers(network: Autoencoder | Classifier) -> dict[str, str]:
    """Convolutions of VSMT's auxiliary networks: ours, theirs; all blocks there count a dropout, also one of rate 0."""
    end = 10 + network.config.blocks
    layers = {"stem.1": "model.1", "down1.1": "model.4", "down2.1": "model.7"}
    if isinstance(network, Autoencoder):
        layers |= {"up1.0": f"model.{end}", "up2.0": f"model.{end + 3}", "output.1": f"model.{end + 7}"}
    else:
        layers |= {"shrink1.0": f"model.{end}", "shrink2.0": f"model.{end + 3}", "logits.2": "fc"}
    second = 6 if isinstance(network, Autoencoder) else 5
    for index in range(network.config.blocks):
        layers[f"block{index}.body.1"] = f"model.{10 + index}.conv_block.1"
        layers[f"block{index}.body.{second}"] = f"model.{10 + index}.conv_block.6"
    return layers


def _unet_layers(config: UNetConfig) -> dict[str, str]:
    """Convolutions and norms of the U-Net: ours, theirs.

    A level is a sequence of activation, convolution, norm, the next level, activation, transposed convolution, norm;
    the outermost has neither the first activation nor norms, the innermost no level inside and no norm before it.
    """
    layers = {"down.0": "model.model.0", "output.1": "model.model.3"}
    block = "model.model.1"
    for level in range(1, config.depth):
        innermost = level == config.depth - 1
        up = 3 if innermost else 5
        layers[f"down.{level}.1"] = f"{block}.model.1"
        if not innermost:
            layers[f"down.{level}.2"] = f"{block}.model.2"
        layers[f"up.{config.depth - 1 - level}.1"] = f"{block}.model.{up}"
        layers[f"up.{config.depth - 1 - level}.2"] = f"{block}.model.{up + 1}"
        block += ".model.3"
    return layers
