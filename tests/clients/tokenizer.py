#!/usr/bin/env python3
"""quad tokenize against CLIPTokenizer of transformers: random texts, every assigned code point, random settings files.

    tests/clients/tokenizer.py --quad PATH --tokenizer DIR [--texts N] [--settings N] [--seed N]

Each of the three is one case. Ends with "N passed, N failed"; exit 1 when anything differs, 77 where transformers cannot be
imported. transformers 5 is the reference; unicodedata's Unicode version decides what is assigned.
"""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import unicodedata

WORDS = ("the cat a photo of it's they're 'S don't 123 1/2 ! !! ... <| |> 's _a_ https://x.y <|endoftext|> <|ENDOFTEXT|> "
         "<|startoftext|> <|StartOfText|> \u0130stanbul \u03a3\u0391\u03a3 \u4f60\u597d \U0001f468\u200d\U0001f469").split()
START, END = "<|startoftext|>", "<|endoftext|>"


def pools():
    """Lists of strings to draw texts from; marks and Hangul are where normalization has its rules. No U+0000: quad refuses it."""
    assigned = [chr(c) for c in range(1, 0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    marks = [c for c in assigned if unicodedata.combining(c)]
    hangul = [chr(c) for c in range(0x1100, 0x1200)] + [chr(c) for c in range(0xAC00, 0xD7A4)]
    spaces = [c for c in assigned if c.isspace()] + list("abc12'!<|>")
    return assigned, [assigned, marks + list("aeiouAEIOU"), hangul, spaces, [chr(c) for c in range(32, 127)], WORDS, WORDS]


def random_text(rng, lists):
    parts = []
    for _ in range(rng.randint(1, 6)):
        pool = rng.choice(lists)
        glue = " " if pool is WORDS and rng.random() < 0.7 else ""
        parts.append(glue.join(rng.choice(pool) for _ in range(rng.randint(1, 12))))
    return rng.choice(["", " "]).join(parts)


def quad_ids(quad, folder, texts):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    done = subprocess.run([quad, "tokenize", "--tokenizer", folder], input=lines, capture_output=True, text=True)
    if done.returncode != 0:
        return done.stderr.strip()
    return [json.loads(line)["ids"] for line in done.stdout.splitlines()]


def reference_ids(tokenizer, texts):
    # Where a file states no limit, transformers has 1e30 and quad the length of every CLIP text encoder.
    length = tokenizer.model_max_length if tokenizer.model_max_length <= 65536 else 77
    ids = []
    for i in range(0, len(texts), 2000):
        ids += tokenizer(texts[i:i + 2000], padding="max_length", truncation=True, max_length=length)["input_ids"]
    return ids


def compare(what, tokenizer, quad, folder, texts):
    """Prints the first differences; returns how many texts agree and how many differ."""
    ours, theirs = quad_ids(quad, folder, texts), reference_ids(tokenizer, texts)
    if isinstance(ours, str):
        print(f"{what}: {ours}")
        return 0, len(texts)
    wrong = [i for i in range(len(texts)) if i >= len(ours) or ours[i] != theirs[i]]
    for i in wrong[:5]:
        print(f"{what}: {ascii(texts[i])}\n  transformers {theirs[i][:20]}\n  quad         {ours[i][:20] if i < len(ours) else None}")
    return len(texts) - len(wrong), len(wrong)


# ---- random settings ----

def token(rng, content, typed):
    if rng.random() < 0.5:
        return content
    made = {"content": content, "lstrip": rng.random() < 0.1, "rstrip": rng.random() < 0.1, "single_word": False}
    if rng.random() < 0.8:
        made["normalized"] = rng.random() < 0.5
    if typed:
        made["__type"] = "AddedToken"
    return made


def roles(rng, typed):
    """The fields of tokenizer_config.json (typed) or special_tokens_map.json, in any order."""
    made = {}
    for role, contents in (("bos_token", [START]), ("eos_token", [END]), ("unk_token", [END, END, "!"]), ("pad_token", [END, "!", "<pad>"])):
        if rng.random() < 0.8:
            made[role] = token(rng, rng.choice(contents), typed)
    if rng.random() < 0.2:
        made["mask_token"] = token(rng, "MASK", typed)
    for extra in ("additional_special_tokens", "extra_special_tokens"):
        if rng.random() < 0.15:
            made[extra] = [token(rng, c, True) if typed else c for c in rng.sample(["<Cat>", "the", "Dog"], 2)]
    items = list(made.items())
    rng.shuffle(items)
    return dict(items)


def decoder(rng, size, vocabulary):
    made = {}
    for content, number in (("!", vocabulary["!"]), (START, vocabulary[START]), (END, vocabulary[END]), ("<Tok>", size)):
        if rng.random() < 0.7:
            made[str(number)] = {"content": content, "normalized": rng.random() < 0.5, "special": rng.random() < 0.5}
    return made


def write(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        json.dump(value, file)


def write_vocabulary(rng, folder, source):
    """Copies vocab.json and merges.txt, or joins them into a tokenizer.json. Returns the vocabulary."""
    with open(os.path.join(source, "vocab.json"), encoding="utf-8") as file:
        vocabulary = json.load(file)
    if rng.random() < 0.5:
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(os.path.join(source, name), folder)
        return vocabulary
    with open(os.path.join(source, "merges.txt"), encoding="utf-8") as file:
        merges = [line.rstrip("\n") for line in file if not line.startswith("#version")]
    if rng.random() < 0.5:
        merges = [merge.split(" ") for merge in merges]
    added = [{"id": vocabulary[c], "content": c, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": rng.random() < 0.5, "special": rng.random() < 0.7} for c in (START, END)]
    model = {"type": "BPE", "dropout": None, "unk_token": END, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
             "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary, "merges": merges}
    write(folder, "tokenizer.json", {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                                     "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model})
    return vocabulary


def write_settings(rng, folder, source):
    vocabulary = write_vocabulary(rng, folder, source)
    config = roles(rng, True)
    if rng.random() < 0.4:
        config["added_tokens_decoder"] = decoder(rng, len(vocabulary), vocabulary)
    if rng.random() < 0.8:
        config["model_max_length"] = rng.choice([77, 20, 5, 1000000000000000019884624838656])
    write(folder, "tokenizer_config.json", config)
    if rng.random() < 0.6:
        write(folder, "special_tokens_map.json", roles(rng, False))
    if rng.random() < 0.15:
        write(folder, "added_tokens.json", {"<Tok>": len(vocabulary)})


def compare_settings(rng, make, quad, source, count):
    texts = ["a <|endoftext|> b<|STARTOFTEXT|>c <|EndOfText|>!x! <|startoftext|>", "<tok> <TOK> <Tok> <pad> <PAD>",
             "<Cat> <cat> the THE Dog dog MASK mask", "the cat!! <|endoftext|>'s <|startoftext|>'d"]
    failed = 0
    for number in range(count):
        with tempfile.TemporaryDirectory() as folder:
            write_settings(rng, folder, source)
            wrong = compare(f"settings {number}", make(folder), quad, folder, texts)[1]
            if wrong:
                print(f"settings {number}: " + " ".join(
                    open(os.path.join(folder, name)).read() for name in sorted(os.listdir(folder)) if "config" in name or "special" in name))
            failed += wrong > 0
    return count - failed, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quad", default="build/quad")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--texts", type=int, default=20000)
    parser.add_argument("--settings", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    try:
        from transformers import CLIPTokenizer, __version__
    except ImportError:
        print("transformers cannot be imported: skipped")
        return 77
    if int(__version__.split(".")[0]) < 5:
        print(f"transformers {__version__} is not the reference, needs 5: skipped")
        return 77
    rng = random.Random(args.seed)
    assigned, lists = pools()
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
    texts = [random_text(rng, lists) for _ in range(args.texts)]
    counts = [compare("random text", tokenizer, args.quad, args.tokenizer, texts)]
    print(f"random texts: {counts[-1][0]} agree, {counts[-1][1]} differ (seed {args.seed}, transformers {__version__})")
    counts.append(compare("code point", tokenizer, args.quad, args.tokenizer, assigned + ["a" + c + "B" for c in assigned]))
    print(f"code points, alone and between letters: {counts[-1][0]} agree, {counts[-1][1]} differ (Unicode {unicodedata.unidata_version})")
    if args.settings:
        counts.append(compare_settings(rng, CLIPTokenizer.from_pretrained, args.quad, args.tokenizer, args.settings))
        print(f"settings: {counts[-1][0]} agree, {counts[-1][1]} differ")
    failed = sum(c[1] > 0 for c in counts)
    print(f"{len(counts) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
