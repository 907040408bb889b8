/*
 * Captions to contexts, each different caption once.
 *
 *   Stable Diffusion 1 and 2   encoder_hidden_states = last_hidden_state of text_encoder
 *   SDXL                       encoder_hidden_states = next-to-last states of text_encoder and text_encoder_2 side by side,
 *                              text_embeds = the second one's projection; the refiner has the second encoder alone
 */
#include "lib/data/internal.h"
#include "lib/tokenizer/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const encoder_names[] = { "text_encoder", "text_encoder_2" };
static const char *const tokenizer_names[] = { "tokenizer", "tokenizer_2" };

/* ---- which captions there are ---- */

static enum qd_status index_of(struct qd_prepare_texts *t, struct qd_strmap *map, const char *text, int64_t *index)
{
	uint32_t found = qd_strmap_get(map, text);
	enum qd_status st = QD_OK;

	if (found == QD_NONE) {
		found = (uint32_t)t->n;
		QD_TRY(st, qd_strmap_put(map, text, found));
		t->texts[t->n++] = text;
	}
	*index = found;
out:
	return st;
}

static enum qd_status collect(struct qd_prepare_texts *t, const struct qd_image_row *rows, size_t n, bool empty)
{
	struct qd_strmap map = { 0 };
	int64_t ignored;
	enum qd_status st = QD_OK;

	t->texts = calloc(n + 1, sizeof(*t->texts));
	t->of_row = calloc(n + 1, sizeof(*t->of_row));
	if (t->texts == NULL || t->of_row == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %zu captions", n));
	for (size_t i = 0; i < n; i++)
		QD_TRY(st, index_of(t, &map, rows[i].text, &t->of_row[i]));
	if (empty)
		st = index_of(t, &map, "", &ignored);
out:
	qd_strmap_release(&map);
	return st;
}

/* ---- opening ---- */

static enum qd_status open_encoder(struct qd_prepare_texts *t, const char *root, const char *encoder, const char *tokenizer)
{
	size_t i = t->n_encoders;
	char *path;
	const struct qd_text_config *config;
	enum qd_status st;

	QD_TRY(st, qd_prepare_network_open(&t->encoders[i], root, encoder, QD_COMPONENT_TEXT));
	t->n_encoders++;
	config = &t->encoders[i].component.text;
	if (asprintf(&path, "%s/%s", root, tokenizer) < 0)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	t->folders[i] = path;
	QD_TRY(st, qd_tokenizer_open(&t->tokenizers[i], path));
	if (qd_tokenizer_size(t->tokenizers[i]) > (size_t)config->vocabulary)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' gives ids up to %zu, '%s/%s' takes them below %lld", path,
				   qd_tokenizer_size(t->tokenizers[i]) - 1, root, encoder, (long long)config->vocabulary));
	if (qd_tokenizer_length(t->tokenizers[i]) > (size_t)config->positions)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' pads to %zu ids, '%s/%s' takes %lld", path,
				   qd_tokenizer_length(t->tokenizers[i]), root, encoder, (long long)config->positions));
	t->features += config->hidden;
	t->embeds = config->projection;
	if (i > 0 && t->tokens != (int64_t)qd_tokenizer_length(t->tokenizers[i]))
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' pads to %zu ids, the first tokenizer to %lld", path,
				   qd_tokenizer_length(t->tokenizers[i]), (long long)t->tokens));
	t->tokens = (int64_t)qd_tokenizer_length(t->tokenizers[i]);
out:
	return st;
}

static enum qd_status open_encoders(struct qd_prepare_texts *t, const char *root)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; st == QD_OK && i < QD_COUNT(encoder_names); i++) {
		char path[QD_PATH_BYTES];
		st = qd_path_join(path, root, "%s", encoder_names[i]);
		if (st == QD_OK && qd_is_directory(path) && (i == 0 || t->pooled))
			st = open_encoder(t, root, encoder_names[i], tokenizer_names[i]);
	}
	if (st == QD_OK && t->n_encoders == 0)
		st = qd_fail(QD_EINPUT, "'%s' has no folder 'text_encoder': captions need a pipeline folder", root);
	return st;
}

static enum qd_status check_features(const struct qd_prepare_texts *t, const struct qd_unet_config *unet)
{
	struct qd_shape context = qd_data_field_needed(unet, QD_FIELD_CONTEXT),
			embeds = qd_data_field_needed(unet, QD_FIELD_TEXT_EMBEDS);

	if (t->features != context.dim[1])
		return qd_fail(QD_EINPUT, "the text encoders give %lld features, the UNet takes %lld", (long long)t->features,
			(long long)context.dim[1]);
	if (t->pooled && t->embeds != embeds.dim[0])
		return qd_fail(QD_EINPUT, "the last text encoder projects to %lld features, the UNet takes %lld",
			(long long)t->embeds, (long long)embeds.dim[0]);
	return QD_OK;
}

enum qd_status qd_prepare_texts_open(
	struct qd_prepare_texts *t, const struct qd_model *model, const struct qd_image_row *rows, size_t n, bool empty)
{
	enum qd_status st;

	*t = (struct qd_prepare_texts){ .pooled = model->config.text_time };
	QD_TRY(st, collect(t, rows, n, empty));
	QD_TRY(st, open_encoders(t, model->root));
	st = check_features(t, &model->config);
out:
	return st;
}

void qd_prepare_texts_release(struct qd_prepare_texts *t)
{
	for (size_t i = 0; i < QD_PREPARE_ENCODERS; i++) {
		qd_prepare_network_release(&t->encoders[i]);
		qd_tokenizer_free(t->tokenizers[i]);
		free(t->folders[i]);
	}
	free(t->texts);
	free(t->of_row);
	*t = (struct qd_prepare_texts){ 0 };
}

/* ---- encoding ---- */

/* Feeds the ids of a caption, and the mask of what is no padding where the encoder wants it. */
static enum qd_status feed_text(struct qd_prepare_texts *t, size_t encoder, const char *text)
{
	struct qd_prepare_network *part = &t->encoders[encoder];
	size_t length = (size_t)t->tokens, used = 0;
	int32_t *ids = calloc(length, sizeof(*ids));
	int64_t *wide = calloc(2 * length, sizeof(*wide)), *mask = wide != NULL ? wide + length : NULL;
	struct qd_tensor tensor;
	enum qd_status st = QD_OK;

	if (ids == NULL || wide == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_tokenizer_encode(t->tokenizers[encoder], text, strlen(text), ids, &used));
	if (used > length)
		qd_log(QD_LOG_INFO, "caption '%.40s...' was cut from %zu to %zu ids", text, used, length);
	for (size_t i = 0; i < length; i++) {
		wide[i] = ids[i];
		mask[i] = i < used;
	}
	tensor = qd_tensor_view("input_ids", QD_I64, QD_SHAPE(1, t->tokens), wide);
	QD_TRY(st, qd_runner_feed(&part->runner, &tensor));
	if (part->component.text.uses_attention_mask) {
		tensor = qd_tensor_view("attention_mask", QD_I64, QD_SHAPE(1, t->tokens), mask);
		st = qd_runner_feed(&part->runner, &tensor);
	}
out:
	free(ids);
	free(wide);
	return st;
}

/* The encoder's states go to columns [column, column + hidden) of `context` [L,D]. */
static enum qd_status encode_one(struct qd_prepare_texts *t, size_t encoder, const char *text, int64_t column, float *context)
{
	struct qd_prepare_network *part = &t->encoders[encoder];
	int64_t hidden = part->component.text.hidden;
	float *states = malloc((size_t)(t->tokens * hidden) * sizeof(*states));
	enum qd_status st = QD_OK;

	if (states == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, feed_text(t, encoder, text));
	QD_TRY(st, qd_runner_run(&part->runner));
	QD_TRY(st, qd_runner_read(&part->runner, t->pooled ? "hidden_states_m2" : "last_hidden_state", (size_t)(t->tokens * hidden),
			   states));
	for (int64_t l = 0; l < t->tokens; l++)
		memcpy(context + l * t->features + column, states + l * hidden, (size_t)hidden * sizeof(*states));
out:
	free(states);
	return st;
}

static enum qd_status encode(struct qd_prepare_texts *t, size_t k, const char *of, const struct qd_prepare_store *store)
{
	struct qd_tensor tensors[2] = { 0 };
	int64_t column = 0;
	enum qd_status st;

	QD_TRY(st, qd_tensor_new(&tensors[0], "encoder_hidden_states", QD_F32, &QD_SHAPE(t->tokens, t->features)));
	for (size_t i = 0; i < t->n_encoders; i++) {
		QD_TRY(st, encode_one(t, i, t->texts[k], column, tensors[0].data));
		column += t->encoders[i].component.text.hidden;
	}
	if (t->pooled) {
		QD_TRY(st, qd_tensor_new(&tensors[1], "text_embeds", QD_F32, &QD_SHAPE(t->embeds)));
		/* of the last encoder's run on this caption */
		QD_TRY(st,
			qd_runner_read(&t->encoders[t->n_encoders - 1].runner, "text_embeds", (size_t)t->embeds, tensors[1].data));
	}
	st = qd_prepare_store_put(store, "text", (int64_t)k, of, tensors, t->pooled ? 2 : 1);
out:
	qd_tensor_release(&tensors[0]);
	qd_tensor_release(&tensors[1]);
	return st;
}

enum qd_status qd_prepare_texts_encode(struct qd_prepare_texts *t, struct qd_prepare_store *store)
{
	struct qd_component_sizes sizes = { .batch = 1, .tokens = t->tokens };
	char of[QD_HASH_TEXT];
	enum qd_status st = QD_OK;

	for (size_t k = 0; k < t->n; k++) {
		qd_progress("captions", k, t->n, NULL);
		qd_hash_bytes(t->texts[k], strlen(t->texts[k]), of);
		if (qd_prepare_store_has(store, "text", (int64_t)k, of))
			continue;
		for (size_t i = 0; i < t->n_encoders; i++)
			if (t->encoders[i].runner.graph == NULL)
				QD_TRY(st, qd_prepare_network_build(&t->encoders[i], &sizes));
		QD_TRY(st, encode(t, k, of, store));
	}
	qd_progress("captions", t->n, t->n, NULL);
out:
	return st;
}
