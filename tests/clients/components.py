#!/usr/bin/env python3
"""VAEs and text encoders as diffusers and transformers save them, run by quad eval; and quad init's, loaded by them.

    tests/clients/components.py --quad PATH

Ends with "N passed, N failed"; exit 1 when anything differs, 77 where torch, diffusers or transformers cannot be imported.
"""
import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings

# Two float32 programs summing in different orders, on values up to 8.
TOLERANCE = 2e-5
KL = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2, "block_out_channels": [8, 16],
      "norm_num_groups": 4, "layers_per_block": 1}
VAES = {
    "plain": KL,
    "one block": {"block_out_channels": [8], "norm_num_groups": 8},
    "no quant_conv": {**KL, "use_quant_conv": False},
    "no post_quant_conv, no mid attention": {**KL, "use_post_quant_conv": False, "mid_block_add_attention": False},
    "mish, 16 latents, 4 channels": {**KL, "act_fn": "mish", "latent_channels": 16, "in_channels": 4, "out_channels": 4},
    "gelu": {**KL, "act_fn": "gelu"},
    "three blocks of two": {**KL, "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3,
                            "block_out_channels": [8, 8, 24], "layers_per_block": 2},
    "normalized": {**KL, "latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 3.0, 4.0], "shift_factor": 0.1},
}
TINY_VAES = {
    "plain": {},
    "16 latents": {"latent_channels": 16},
    "two levels": {"encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8], "num_encoder_blocks": [1, 2],
                   "num_decoder_blocks": [3, 1]},
}
CLIP = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3, "vocab_size": 120,
        "projection_dim": 10}
TEXTS = {
    "legacy end token": {**CLIP, "eos_token_id": 2},
    "end token 118": {**CLIP, "eos_token_id": 118},
    "end token not there": {**CLIP, "eos_token_id": 119},
    "gelu, another eps": {**CLIP, "hidden_act": "gelu", "layer_norm_eps": 0.01, "eos_token_id": 118},
    "20 positions, one layer": {**CLIP, "max_position_embeddings": 20, "num_hidden_layers": 1, "eos_token_id": 2},
    "with attention mask": {**CLIP, "eos_token_id": 118, "use_attention_mask": True},
}


class Tester:
    def __init__(self, quad, folder):
        self.quad, self.folder, self.passed, self.failed, self.number = quad, folder, 0, 0, 0

    def path(self, name):
        self.number += 1
        return os.path.join(self.folder, f"{self.number}-{name}")

    def say(self, what, good, text=""):
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        print(f"{'ok  ' if good else 'FAIL'} {what}{': ' + text if text else ''}")

    def init(self, config, *options):
        """quad init's folder for a configuration."""
        folder = self.path("init")
        with open(folder + ".json", "w") as file:
            json.dump(config, file)
        subprocess.run([self.quad, "init", "--config", folder + ".json", "-o", folder, *options], check=True, capture_output=True)
        return folder

    def check(self, what, folder, tensors, expected, *options):
        """quad eval of all `expected` outputs; every one of them must be compared."""
        from safetensors.torch import save_file
        file = self.path("inputs.safetensors")
        save_file({k: v.contiguous().clone() for k, v in {**tensors, **expected}.items()}, file)
        done = subprocess.run([self.quad, "eval", "--base", folder, "--inputs", file, "--check", str(TOLERANCE), "--json", *options],
                              capture_output=True, text=True)
        compared = {}
        if done.returncode in (0, 1):
            compared = {o["name"]: o["max_abs_difference"] for o in json.loads(done.stdout)["outputs"] if "max_abs_difference" in o}
        good = done.returncode == 0 and set(compared) == set(expected)
        self.say(what, good, f"{max(compared.values()):.3g}" if good else done.stderr.strip() or f"compared {sorted(compared)}")


def shake(torch, model):
    """Norms and biases away from 1 and 0, so that none can be left out unseen."""
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def check_vae(tester, torch, what, model, folder):
    """Both directions, odd sizes among them."""
    config, tiny = model.config, type(model).__name__ == "AutoencoderTiny"
    channels, latents = config.in_channels, config.latent_channels
    z, x = torch.randn(2, latents, 5, 4), torch.randn(1, channels, 26, 17)
    decoded = model.decode(z).sample
    encoded = model.encode(x).latents if tiny else model.encode(x).latent_dist.parameters
    tester.check(f"{what}, decoder", folder, {"z": z}, {"out": decoded}, "--part", "decoder")
    tester.check(f"{what}, encoder", folder, {"x": x}, {"out": encoded}, "--part", "encoder")


def vaes(tester, torch):
    from diffusers import AutoencoderKL, AutoencoderTiny
    for kind, configs in ((AutoencoderKL, VAES), (AutoencoderTiny, TINY_VAES)):
        for what, config in configs.items():
            model, folder = shake(torch, kind(**config)), tester.path("vae")
            model.save_pretrained(folder)
            check_vae(tester, torch, f"{kind.__name__}, {what}", model, folder)
        made = tester.init({"_class_name": kind.__name__, **configs["plain"]})
        model, info = kind.from_pretrained(made, output_loading_info=True)
        unknown = {k: v for k, v in info.items() if v}
        tester.say(f"{kind.__name__}, quad init's weights have all names", not unknown, str(unknown or ""))
        check_vae(tester, torch, f"{kind.__name__}, quad init's", model.eval(), made)
    check_files(tester, torch, AutoencoderKL)


def check_files(tester, torch, kind):
    """Shards, half precision as a variant, and the attention names of the first years."""
    from safetensors.torch import load_file, save_file
    model, folder = shake(torch, kind(**KL)), tester.path("shards")
    model.save_pretrained(folder, max_shard_size="20KB")
    tester.say("shards are shards", os.path.exists(f"{folder}/diffusion_pytorch_model.safetensors.index.json"))
    check_vae(tester, torch, "AutoencoderKL in shards", model, folder)
    folder = tester.path("variant")
    model.half().save_pretrained(folder, variant="fp16")
    check_vae(tester, torch, "AutoencoderKL, fp16 variant", model.float(), folder)
    folder = tester.path("old")
    model.save_pretrained(folder)
    file = f"{folder}/diffusion_pytorch_model.safetensors"
    old = {}
    for name, tensor in load_file(file).items():
        for now, before in ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")):
            name = name.replace(now, before)
        old[name] = tensor
    save_file(old, file, metadata={"format": "pt"})
    loaded = kind.from_pretrained(folder).eval()
    check_vae(tester, torch, "AutoencoderKL, old attention names", loaded, folder)


def check_text(tester, torch, what, model, folder):
    config, layers = model.config, model.config.num_hidden_layers
    length = config.max_position_embeddings
    ids = torch.randint(3, 117, (3, length), dtype=torch.int32)
    ids[:, 0] = 117
    ids[0, 7:] = 118
    ids[1, 5] = ids[1, 9] = 118
    ids[1, 3] = ids[0, 2] if config.eos_token_id == 2 else 119
    masked = getattr(config, "use_attention_mask", False)
    mask = (torch.arange(length) < torch.tensor([[8], [10], [length]])).int() if masked else None
    # transformers 5 flattened CLIPTextModel; the other class still has the part called text_model.
    norm = model.text_model.final_layer_norm if hasattr(model, "text_model") else model.final_layer_norm
    done = model(ids.long(), attention_mask=mask, output_hidden_states=True)
    states = done.hidden_states
    expected = {"last_hidden_state": done.last_hidden_state, "hidden_states_m2": states[-2], "clip_skip_1": norm(states[-2])}
    if hasattr(done, "text_embeds"):
        expected["text_embeds"] = done.text_embeds
    else:
        expected["pooler_output"] = done.pooler_output
    if layers > 1:
        expected["hidden_states_m3"] = states[-3]
    tester.check(what, folder, {"input_ids": ids, **({"attention_mask": mask} if masked else {})}, expected)


def texts(tester, torch):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
    for kind in (CLIPTextModel, CLIPTextModelWithProjection):
        for what, config in TEXTS.items():
            model, folder = shake(torch, kind(CLIPTextConfig(**config))), tester.path("text")
            model.save_pretrained(folder)
            check_text(tester, torch, f"{kind.__name__}, {what}", model, folder)
        made = tester.init({"architectures": [kind.__name__], "model_type": "clip_text_model", **TEXTS["legacy end token"]})
        model, info = kind.from_pretrained(made, output_loading_info=True)
        unknown = {k: v for k, v in info.items() if v}
        tester.say(f"{kind.__name__}, quad init's weights have all names", not unknown, str(unknown or ""))
        check_text(tester, torch, f"{kind.__name__}, quad init's", model.eval(), made)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quad", default="build/quad")
    args = parser.parse_args()
    try:
        import torch
        import diffusers
        import transformers
    except ImportError as error:
        print(f"{error}: skipped")
        return 77
    warnings.simplefilter("ignore")
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(3)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        tester = Tester(os.path.abspath(args.quad), folder)
        vaes(tester, torch)
        texts(tester, torch)
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}, transformers {transformers.__version__}")
    print(f"{tester.passed} passed, {tester.failed} failed")
    return 1 if tester.failed else 0


if __name__ == "__main__":
    sys.exit(main())
