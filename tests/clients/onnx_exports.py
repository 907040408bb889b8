#!/usr/bin/env python3
"""What PyTorch's exporters write, read by quad: every file gives the network's output, and every adapter does the same on it as on the folder.

    tests/clients/onnx_exports.py --quad PATH [--only WORD]

Exports the committed example model and small random UNets (as SD1.5, SD2 and SDXL are built) with torch.onnx, the old exporter and the new,
with fixed and with open sizes, a single integer timestep, half precision and external data; and small text encoders and VAE decoders, which
have no adapters. Ends with "N passed, N failed, N skipped"; exit 1 when anything differs, 77 where torch, diffusers, onnx or onnxscript
cannot be imported.
"""
import argparse
import contextlib
import io
import logging
import os
import subprocess
import sys
import tempfile
import warnings

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
EXAMPLE = os.path.join(ROOT, "scripts", "example", "model")
# Two float32 programs summing in different orders: 2e-5 of values up to 8 is what the reference itself moves between versions.
TOLERANCE = 2e-5
# A float16 file computed in float32 against torch's float32 on the same rounded weights; inputs are rounded too.
HALF_TOLERANCE = 2e-3

PLAIN = {"sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 24, "norm_num_groups": 8}
CROSS_FIRST = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
CROSS_LAST = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
CONFIGS = {
    "sd15": {**PLAIN, **CROSS_FIRST, "attention_head_dim": 4},
    "sd2": {**PLAIN, **CROSS_FIRST, "attention_head_dim": (2, 4), "use_linear_projection": True},
    "sdxl": {**PLAIN, **CROSS_LAST, "attention_head_dim": (2, 4), "use_linear_projection": True, "transformer_layers_per_block": (1, 2),
             "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64},
}


class Counts:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add(self, good, text):
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        print(f"{'ok  ' if good else 'FAIL'} {text}", flush=True)

    def skip(self, text):
        self.skipped += 1
        print(f"skip {text}", flush=True)


def quad(args, *words):
    return subprocess.run([args.quad, *words], capture_output=True, text=True)


def wrapped(torch, unet):
    """The network with positional inputs, under the name `unet` as in a pipeline."""
    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unet = unet

        def forward(self, sample, timestep, encoder_hidden_states, text_embeds=None, time_ids=None):
            added = None if text_embeds is None else {"text_embeds": text_embeds, "time_ids": time_ids}
            return self.unet(sample, timestep, encoder_hidden_states, added_cond_kwargs=added, return_dict=False)[0]
    return Wrapper().eval()


def inputs_of(torch, unet, batch, height, width, tokens):
    c = unet.config
    torch.manual_seed(1)
    inputs = {"sample": torch.randn(batch, c.in_channels, height, width), "timestep": torch.tensor([501.0, 37.0])[:batch].clone(),
              "encoder_hidden_states": torch.randn(batch, tokens, c.cross_attention_dim)}
    if c.addition_embed_type == "text_time":
        inputs["text_embeds"] = torch.randn(batch, c.projection_class_embeddings_input_dim - 6 * c.addition_time_embed_dim)
        inputs["time_ids"] = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(batch, 1)
    return inputs


AXES = {"sample": {0: "batch", 2: "height", 3: "width"}, "timestep": {0: "batch"}, "encoder_hidden_states": {0: "batch", 1: "tokens"},
        "text_embeds": {0: "batch"}, "time_ids": {0: "batch"}, "input_ids": {0: "batch"}, "z": {0: "batch", 2: "height", 3: "width"}}


def export(torch, module, inputs, path, dynamo, opset, open_sizes, **more):
    """One torch.onnx.export, without what it prints."""
    axes = {name: AXES[name] for name in inputs if inputs[name].dim() > 0}
    options = {"input_names": list(inputs), "output_names": ["result"], "opset_version": opset, "dynamo": dynamo, **more}
    if open_sizes and dynamo:
        options["dynamic_shapes"] = [{axis: torch.export.Dim.DYNAMIC for axis in axes.get(name, {})} for name in inputs]
    elif open_sizes:
        options["dynamic_axes"] = axes
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, tuple(inputs.values()), path, **options)


def variants():
    """(name, arguments of export) of all ways to export a network."""
    for opset in (14, 17, 18):
        for open_sizes in (False, True):
            yield f"old exporter, opset {opset}, {'open' if open_sizes else 'fixed'} sizes", (False, opset, open_sizes)
    for opset in (18, 20, 21):
        for open_sizes in (False, True):
            yield f"new exporter, opset {opset}, {'open' if open_sizes else 'fixed'} sizes", (True, opset, open_sizes)


class Unet:
    """A UNet's folder, what torch computes with it, and an adapter for it."""

    def __init__(self, args, torch, save_file, folder, name, unet, sizes):
        self.args, self.torch, self.save_file, self.folder, self.name, self.unet = args, torch, save_file, f"{folder}/{name}", name, unet
        unet.save_pretrained(f"{self.folder}/model/unet")
        with open(f"{self.folder}/model/model_index.json", "w", encoding="utf-8") as file:
            file.write('{"_class_name": "StableDiffusionPipeline"}')
        self.module, self.sizes = wrapped(torch, unet), sizes
        self.files = [self.write_inputs(f"inputs{i}", inputs_of(torch, unet, *size)) for i, size in enumerate(sizes)]
        self.adapter = self.make_adapter()

    def write_inputs(self, name, inputs, module=None):
        with self.torch.no_grad():
            out = (module or self.module)(*inputs.values())
        path = f"{self.folder}/{name}.safetensors"
        self.save_file({**{k: v.contiguous() for k, v in inputs.items()}, "result": out.float()}, path)
        return path

    def make_adapter(self):
        """Every layer's, drawn: up is not zero, so that it moves the output."""
        torch, tensors = self.torch, {}
        torch.manual_seed(2)
        for path, module in self.unet.named_modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                o, *shape = module.weight.shape
                tensors[f"unet.{path}.lora_A.weight"] = torch.randn(2, *shape) * 0.1
                tensors[f"unet.{path}.lora_B.weight"] = torch.randn(o, 2, *[1] * (len(shape) - 1)) * 0.1
        path = f"{self.folder}/adapter.safetensors"
        self.save_file(tensors, path)
        return path

    def out(self, base, inputs, *options):
        """What quad computes, as bytes of a file; None and the message where it fails."""
        path = f"{self.folder}/out.safetensors"
        done = quad(self.args, "eval", "--base", base, "--inputs", inputs, *options, "-q", "--force", "-o", path)
        if done.returncode != 0:
            return None, done.stderr.strip()
        with open(path, "rb") as file:
            return file.read(), ""

    def check(self, counts, text, path, inputs, tolerance=TOLERANCE):
        done = quad(self.args, "eval", "--base", path, "--inputs", inputs, "--check", str(tolerance))
        counts.add(done.returncode == 0, f"{self.name}, {text}: {(done.stderr.strip() or done.stdout.splitlines()[-1].strip())}")

    def check_adapter(self, counts, text, path, inputs):
        plain, _ = self.out(f"{self.folder}/model", inputs)
        want, _ = self.out(f"{self.folder}/model", inputs, "--adapter", self.adapter)
        got, message = self.out(path, inputs, "--adapter", self.adapter)
        good = want is not None and got == want and want != plain
        counts.add(good, f"{self.name}, {text}, with an adapter: {message or ('as the folder' if good else 'not as the folder')}")

    def check_all(self, counts):
        path = f"{self.folder}/model.onnx"
        for text, (dynamo, opset, open_sizes) in variants():
            if self.args.only and self.args.only not in f"{self.name}, {text}":
                continue
            try:
                export(self.torch, self.module, inputs_of(self.torch, self.unet, *self.sizes[0]), path, dynamo, opset, open_sizes)
            except Exception as error:  # an exporter's own failure says nothing of quad
                counts.skip(f"{self.name}, {text}: torch cannot export it: {str(error).splitlines()[0]}")
                continue
            for inputs in self.files if open_sizes else self.files[:1]:
                self.check(counts, text, path, inputs)
            self.check_adapter(counts, text, path, self.files[0])

    def check_special(self, counts):
        """A single integer timestep as optimum declares it, half precision, and data beside the file."""
        torch, path = self.torch, f"{self.folder}/special.onnx"
        inputs = inputs_of(torch, self.unet, *self.sizes[0])
        single = {**inputs, "timestep": torch.tensor(501)}
        stored = self.write_inputs("single", {**inputs, "timestep": torch.tensor([501.0, 501.0])})
        for open_sizes in (False, True):
            export(torch, self.module, single, path, False, 18, open_sizes)
            text = f"one integer timestep, {'open' if open_sizes else 'fixed'} sizes"
            self.check(counts, text, path, stored)
            self.check_adapter(counts, text, path, stored)
        export(torch, self.module, inputs, path, True, 20, True, external_data=True)
        self.check(counts, "data beside the file", path, self.files[1])
        self.check_adapter(counts, "data beside the file", path, self.files[1])
        half = wrapped(torch, type(self.unet).from_pretrained(f"{self.folder}/model/unet", torch_dtype=torch.float16))
        export(torch, half, {k: v.half() for k, v in inputs.items()}, path, True, 20, False)
        rounded = {k: v.half().float() for k, v in inputs.items()}
        self.check(counts, "half precision", path, self.write_inputs("half", rounded, wrapped(torch, half.unet.float())), HALF_TOLERANCE)


def check_others(args, torch, diffusers, save_file, folder, counts):
    """Graphs that are no UNets."""
    try:
        import transformers
    except ImportError as error:
        counts.skip(f"text encoders: {error}")
        return
    config = transformers.CLIPTextConfig(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                                         eos_token_id=2, bos_token_id=0)
    text = transformers.CLIPTextModel(config).eval()

    class Text(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.text = text

        def forward(self, input_ids):
            return self.text(input_ids, return_dict=False)[0]

    vae = diffusers.AutoencoderKL(block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
                                  up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, norm_num_groups=8).eval()

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = vae

        def forward(self, z):
            return self.vae.decode(z, return_dict=False)[0]

    for name, module, inputs in (("text encoder", Text().eval(), {"input_ids": torch.randint(3, 90, (2, 77))}),
                                 ("VAE decoder", Decoder().eval(), {"z": torch.randn(1, 4, 6, 5)})):
        with torch.no_grad():
            out = module(*inputs.values())
        stored, path = f"{folder}/other.safetensors", f"{folder}/other.onnx"
        save_file({**inputs, "result": out}, stored)
        for way, (dynamo, opset, open_sizes) in variants():
            if args.only and args.only not in f"{name}, {way}":
                continue
            try:
                export(torch, module, inputs, path, dynamo, opset, open_sizes)
            except Exception as error:
                counts.skip(f"{name}, {way}: torch cannot export it: {str(error).splitlines()[0]}")
                continue
            done = quad(args, "eval", "--base", path, "--inputs", stored, "--check", str(TOLERANCE))
            counts.add(done.returncode == 0, f"{name}, {way}: {done.stderr.strip() or done.stdout.splitlines()[-1].strip()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quad", required=True, metavar="PATH", help="the program")
    parser.add_argument("--only", metavar="WORD", help="only the cases whose line holds this word")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import diffusers
        import onnx
        import onnxscript
        import torch
        from safetensors.torch import save_file
    except ImportError as error:
        print(f"{error}: skipped")
        return 77
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    counts = Counts()
    with tempfile.TemporaryDirectory() as folder:
        sizes = ((2, 8, 8, 5), (1, 12, 10, 7))
        for name, config in CONFIGS.items():
            torch.manual_seed(0)
            unet = Unet(args, torch, save_file, folder, name, diffusers.UNet2DConditionModel(**config).eval(), sizes)
            unet.check_all(counts)
            if name == "sd15" and not args.only:
                unet.check_special(counts)
        example = diffusers.UNet2DConditionModel.from_pretrained(EXAMPLE, subfolder="unet", torch_dtype=torch.float32).eval()
        Unet(args, torch, save_file, folder, "example", example, ((2, 32, 32, 8), (1, 16, 24, 3))).check_all(counts)
        check_others(args, torch, diffusers, save_file, folder, counts)
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}, onnx {onnx.__version__}, onnxscript {onnxscript.__version__}")
    print(f"{counts.passed} passed, {counts.failed} failed, {counts.skipped} skipped")
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
