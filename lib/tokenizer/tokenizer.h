/*
 * lib/tokenizer: CLIP's byte-pair tokenizer: a prompt as the ids that a Stable Diffusion text encoder takes. A tokenizer folder
 * holds
 *
 *   vocab.json, merges.txt    the vocabulary {symbol: id} and the merges, "left right" per line below a header, best first
 *   tokenizer.json            both of them in one file, "model": {"vocab", "merges"}; where it is there, it counts
 *   tokenizer_config.json     the special strings, the pad token, model_max_length; special_tokens_map.json: older files' spelling
 *
 * Ids are those of CLIPTokenizer of the transformers library, version 5.
 */
#ifndef QUAD_LIB_TOKENIZER_TOKENIZER_H
#define QUAD_LIB_TOKENIZER_TOKENIZER_H

#include "lib/base/base.h"

struct qd_tokenizer;
/*
 * Opens a tokenizer folder ("DIR/tokenizer", "DIR/tokenizer_2"). `*out` is NULL on failure. QD_EIO; QD_EINPUT names file, symbol or
 * line, found and needed: a vocabulary without one of the 512 byte symbols or a special string, an id twice or out of range, a
 * merge of parts that are no symbols or into none; QD_EUNSUPPORTED: a tokenizer.json of another kind.
 */
QD_CHECK enum qd_status qd_tokenizer_open(struct qd_tokenizer **out, const char *folder);
void qd_tokenizer_free(struct qd_tokenizer *tokenizer);
/* A hash over the files that make a folder a tokenizer. `out`: QD_HASH_TEXT bytes. QD_EIO, QD_ENOMEM. */
QD_CHECK enum qd_status qd_tokenizer_hash(const char *folder, char *out);

/* How many ids a prompt is padded or cut to: model_max_length, 77 when the files state none. At least 2. */
size_t qd_tokenizer_length(const struct qd_tokenizer *tokenizer);
/* One more than the largest id: the rows that a token embedding needs. */
size_t qd_tokenizer_size(const struct qd_tokenizer *tokenizer);

/*
 * text: `bytes` bytes of UTF-8, NUL among them allowed; where they are not valid UTF-8, each maximal bad piece counts as U+FFFD, as
 * readers of Unicode text do. ids: I32 [length]: start, the text cut to length - 2, end, then pads. `*n` (may be NULL): the ids of
 * the uncut text with start and end; above length: it was cut. Ids past min(*n, length) are pads. QD_ENOMEM; QD_EINPUT for more
 * than 256 MiB. Threads may share one tokenizer.
 */
QD_CHECK enum qd_status qd_tokenizer_encode(
	const struct qd_tokenizer *tokenizer, const char *text, size_t bytes, int32_t *ids, size_t *n);

#endif
