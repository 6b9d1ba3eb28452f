"""Writes tests/text/data/special_tokens.json: what `transformers` puts around texts and pairs, by what a directory's files say.

    python3 tools/make_special_token_fixtures.py

Needs Python 3.11, transformers 5 and tokenizers. A case is a tokenizer.json of tests/text/data/tiny with another
post_processor, or vocab.json and merges.txt of tests/text/data/tiny_pairs, each with small files beside it. Texts are
encoded with special tokens in them as text ("text") and as themselves ("parsed"); windows are those of run_qa.py.
"""

import json
import pathlib
import tempfile

from tokenizers import processors
from transformers import AutoTokenizer

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests/text/data"
END = "<|endoftext|>"
TEXTS = ["The king.", "", f"{END}The river{END} ", "caf\u00e9 \U0001f600", "  two  spaces "]
QUESTION, CONTEXT = "Who was the king?", "The king was a Norman, and the river was north of the city. " * 3
WINDOW, STRIDE = 40, 8
HUGE = 1000000000000000019884624838656  # model_max_length of many files


def template(single, pair, **tokens):
    return json.loads(processors.TemplateProcessing(single=single, pair=pair, special_tokens=list(tokens.items()) or [])
                      .__getstate__())


def steps(*processors_):
    return {"type": "Sequence", "processors": list(processors_)}


def main():
    base = json.loads((DATA / "tiny/tokenizer.json").read_text())
    ids = dict(base["model"]["vocab"]) | {token["content"]: token["id"] for token in base["added_tokens"]}
    end = {END: ids[END]}
    before = template(f"{END}:0 $A:0", f"{END}:0 $A:0 {END}:1 $B:1", **end)
    behind = template(f"$A:0 {END}:0", f"$A:0 {END}:0 $B:1 {END}:1", **end)
    both = template(f"{END}:0 $A:0 {END}:0", f"{END}:0 $A:0 {END}:0 {END}:1 $B:1 {END}:1", **end)
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    trimming = byte_level | {"trim_offsets": True}
    several = template("$A:0", "$A:0 $B:0", **end)
    several["single"] = [{"SpecialToken": {"id": "begin", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    several["special_tokens"] = {"begin": {"id": "begin", "ids": [ids["a"], ids[END]], "tokens": ["a", END]}}
    roberta = {"type": "RobertaProcessing", "sep": ["b", ids["b"]], "cls": ["a", ids["a"]], "trim_offsets": True,
               "add_prefix_space": False}
    bert = {"type": "BertProcessing", "sep": ["b", ids["b"]], "cls": ["a", ids["a"]]}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "model_max_length": HUGE}
    content = {"__type": "AddedToken", "content": END, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    cases = [
        ("none", None, {"tokenizer_config.json": config}),
        ("byte level", byte_level, {"tokenizer_config.json": config}),
        ("begin", before, {"tokenizer_config.json": config}),
        ("end", behind, {"tokenizer_config.json": config}),
        ("both", both, {"tokenizer_config.json": config}),
        ("byte level, begin", steps(byte_level, before), {"tokenizer_config.json": config}),
        ("trimming, both", steps(trimming, both), {"tokenizer_config.json": config}),
        ("two tokens, singles alone", several, {"tokenizer_config.json": config}),
        ("roberta", roberta, {"tokenizer_config.json": config}),
        ("bert", bert, {"tokenizer_config.json": config}),
        # tokenizer.json decides alone.
        ("no, flag says yes", byte_level, {"tokenizer_config.json": config | {"add_bos_token": True, "bos_token": END}}),
        ("none, flag says yes", None, {"tokenizer_config.json": config | {"add_bos_token": True, "bos_token": END}}),
        ("begin, flag says no", before, {"tokenizer_config.json": config | {"add_bos_token": False, "bos_token": END}}),
        ("LlamaTokenizerFast", before,
         {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False, "bos_token": END}}),
        ("no tokenizer_config.json", before, {}),
    ]
    files = [
        ("files", {}),
        ("files, begin", {"tokenizer_config.json": {"add_bos_token": True, "model_max_length": HUGE}}),
        ("files, end", {"tokenizer_config.json": {"add_eos_token": True, "tokenizer_class": "GPT2Tokenizer"}}),
        ("files, both", {"tokenizer_config.json": {"add_bos_token": True, "add_eos_token": True, "bos_token": content}}),
        ("files, named", {"tokenizer_config.json": {"add_bos_token": True, "bos_token": "Q"}}),
        ("files, named in the map", {"tokenizer_config.json": {"add_bos_token": True, "bos_token": "Q"},
                                     "special_tokens_map.json": {"bos_token": "Z"}}),
        ("files, no token", {"tokenizer_config.json": {"add_bos_token": True, "bos_token": None}}),
        ("files, false", {"tokenizer_config.json": {"add_bos_token": False, "bos_token": "Q"}}),
    ]
    # Tokens named here are in none of the texts: transformers makes every one that is named a special token.
    results = []
    for name, post, small in cases:
        tokenizer_json = json.dumps(base | {"post_processor": post})
        results.append(case(name, {"tokenizer.json": tokenizer_json}, small) | {"post_processor": post})
    for name, small in files:
        large = {file: (DATA / "tiny_pairs" / file).read_text() for file in ("vocab.json", "merges.txt")}
        results.append(case(name, large, small))
    output = DATA / "special_tokens.json"
    lines = ",\n".join(json.dumps(result, ensure_ascii=True, separators=(",", ":")) for result in results)
    output.write_text(f"[\n{lines}\n]\n")


def case(name, large, small):
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory)
        small = {file: json.dumps(value) for file, value in small.items()}
        for file, text in (large | small | {"config.json": json.dumps({"model_type": "gpt2"})}).items():
            (path / file).write_text(text)
        tokenizer = AutoTokenizer.from_pretrained(directory)

        def encoded(text, split):
            result = tokenizer(text, split_special_tokens=split, return_offsets_mapping=True)
            return {"ids": result["input_ids"], "offsets": result["offset_mapping"]}

        windows = tokenizer(QUESTION, CONTEXT, truncation="only_second", max_length=WINDOW, stride=STRIDE, return_overflowing_tokens=True,
                            split_special_tokens=True)
        return {"name": name, "files": small,
                "texts": [{"string": text, "text": encoded(text, True), "parsed": encoded(text, False)} for text in TEXTS],
                "question": QUESTION, "context": CONTEXT, "max_seq_length": WINDOW, "doc_stride": STRIDE,
                "windows": windows["input_ids"]}


if __name__ == "__main__":
    main()
