#!/usr/bin/env python3
"""Adapters that quad writes, loaded by diffusers and PEFT: the same output as quad eval.

    tests/clients/adapters.py --quad PATH

Trains two updates of an adapter, distils another, and loads these files and the committed ones with load_lora_adapter and
load_lora_weights into the committed example model. Ends with "N passed, N failed, N skipped"; exit 1 when anything differs, 77 where
torch, diffusers or peft cannot be imported.
"""
import argparse
import logging
import os
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
MODEL = os.path.join(ROOT, "scripts", "example", "model")
GIVEN = os.path.join(ROOT, "scripts", "example", "adapters")
# Two float32 programs summing in different orders: 2e-5 of values up to 8 is what the reference itself moves between versions.
TOLERANCE = 2e-5


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")


def write_data(torch, save_file, folder):
    """Random inputs in the example's sizes: for quad eval, and to train and calibrate on."""
    torch.manual_seed(5)
    inputs = {"sample": torch.randn(2, 25, 32, 32), "timestep": torch.tensor([501.0, 37.0]),
              "encoder_hidden_states": torch.randn(2, 8, 48)}
    save_file(inputs, f"{folder}/inputs.safetensors")
    save_file({"sample": torch.randn(4, 25, 32, 32), "timestep": torch.tensor([900.0, 600.0, 300.0, 20.0]),
               "encoder_hidden_states": torch.randn(4, 8, 48)}, f"{folder}/calib.safetensors")
    save_file({"latents": torch.randn(8, 12, 32, 32), "condition": torch.randn(8, 13, 32, 32),
               "encoder_hidden_states": torch.randn(8, 8, 48)}, f"{folder}/data.safetensors")
    return inputs


def make_adapters(quad, folder):
    """name -> file: as quad train and quad distill write them, and the committed ones (gain 1, 2, 1/4, 1/2)."""
    made = {name: f"{GIVEN}/{name}.safetensors" for name in ("removal", "sketch", "night", "sticker")}
    train = [quad, "train", "--base", MODEL, "--data", f"{folder}/data.safetensors", "--steps", "2", "--batch", "2", "--lr", "0.01", "-q"]
    made["trained"] = f"{folder}/trained.safetensors"
    run(*train, "--lora", "3", "--slots", "all", "--alpha", "1.5", "-o", made["trained"])
    made["trained-f16"] = f"{folder}/half.safetensors"
    run(*train, "--lora", "2", "--slots", "attention", "--dtype", "f16", "-o", made["trained-f16"])
    both = ["--adapter", f"night={made['night']}", "--adapter", f"sketch={made['sketch']}"]
    run(quad, "qss", "--base", MODEL, *both, "--calib", f"{folder}/calib.safetensors", "-q", "-o", f"{folder}/profile.json")
    made["distilled"] = f"{folder}/distilled.safetensors"
    run(quad, "distill", "--base", MODEL, "--profile", f"{folder}/profile.json", "--adapter", f"night={made['night']}", "--data",
        f"{folder}/data.safetensors", "--steps", "2", "--batch", "2", "-q", "-o", made["distilled"])
    return made


def output_of_quad(quad, load_file, folder, adapter):
    options = ["--adapter", f"x={adapter}"] if adapter else []
    run(quad, "eval", "--base", MODEL, *options, "--inputs", f"{folder}/inputs.safetensors", "-q", "--force", "-o", f"{folder}/out.safetensors")
    return load_file(f"{folder}/out.safetensors")["out"]


def outputs_of_diffusers(torch, diffusers, inputs, adapter):
    """Yields (how it was loaded, output). use_safetensors: without it load_lora_adapter leaves a file's metadata, and so alpha, out."""
    unet = diffusers.UNet2DConditionModel.from_pretrained(MODEL, subfolder="unet", torch_dtype=torch.float32).eval()
    pipe = diffusers.StableDiffusionPipeline(vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=None, safety_checker=None,
                                             feature_extractor=None, requires_safety_checker=False)
    with torch.no_grad():
        if adapter is None:
            yield "no adapter", unet(**inputs).sample
            return
        unet.load_lora_adapter(adapter, prefix="unet", use_safetensors=True)
        yield "load_lora_adapter", unet(**inputs).sample
        unet.unload_lora()
        pipe.load_lora_weights(os.path.dirname(adapter), weight_name=os.path.basename(adapter))
        yield "load_lora_weights", unet(**inputs).sample


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quad", default="build/quad")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import diffusers
        import peft  # noqa: F401  diffusers loads adapters through it
        import torch
        from safetensors.torch import load_file, save_file
    except ImportError as error:
        print(f"{error}: skipped")
        return 77
    # It names the tensors that only quad reads.
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_data(torch, save_file, folder)
        base = output_of_quad(args.quad, load_file, folder, None)
        for name, adapter in {"base": None, **make_adapters(args.quad, folder)}.items():
            want = output_of_quad(args.quad, load_file, folder, adapter)
            for how, got in outputs_of_diffusers(torch, diffusers, inputs, adapter):
                difference, moved = (got - want).abs().max().item(), (want - base).abs().max().item()
                good = difference <= TOLERANCE and (adapter is None or moved > 10 * TOLERANCE)
                passed, failed = passed + good, failed + (not good)
                print(f"{'ok  ' if good else 'FAIL'} {name}, {how}: largest difference {difference:.2g}, the adapter moves it by {moved:.2g}")
    print(f"diffusers {diffusers.__version__}, peft {peft.__version__}, torch {torch.__version__}")
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
