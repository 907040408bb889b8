/*
 * For tests of the tokenizer: small tokenizer folders, made in the scratch folder. Included after <cmocka.h>.
 */
#ifndef QUAD_TESTS_UNIT_TOKENIZER_HELP_H
#define QUAD_TESTS_UNIT_TOKENIZER_HELP_H

#include "lib/tokenizer/tokenizer.h"

/* The vocabulary: an id is the place in this list. */
enum { TOK_MAX_SYMBOLS = 2048 };
extern char tok_symbols[TOK_MAX_SYMBOLS][40];
extern int tok_n_symbols;
/* The place of a symbol of `bytes` bytes, -1 where it is not in the list. */
int tok_id(const char *symbol, size_t bytes);

/* The folder that the functions below write to. */
const char *tok_folder(void);
/* Writes a file of the folder; text NULL removes it. */
void tok_put(const char *name, const char *text);
/* The list as vocab.json; the caller frees it. */
char *tok_vocabulary(void);
/*
 * Starts the list again and writes vocab.json and merges.txt: byte symbols, what the merges (lines "left right") make,
 * "<|startoftext|>", "<|endoftext|>". config (tokenizer_config.json) and map (special_tokens_map.json) may be NULL: no such file.
 */
void tok_write(const char *merges, const char *config, const char *map);
/* A tokenizer.json in their place: the merges "a b" and "ab c</w>" make the list; `model` are further fields of the model. */
void tok_write_json(const char *merges, const char *model, const char *added);

#endif
