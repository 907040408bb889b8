/*
 * Special strings and settings of a tokenizer folder, as transformers 5 reads them.
 *
 *   token      "text", or {"content": "text", "normalized": bool, "special": bool, "lstrip", "rstrip", "single_word"}; lstrip and
 *              rstrip only take white space along, which never becomes an id
 *   roles      bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token, other "..._token" fields
 *   listed     added_tokens_decoder {"id": token} of tokenizer_config.json. Where that is missing: roles of special_tokens_map.json
 *              replace those of tokenizer_config.json, and the list is added_tokens.json {"text": id} and tokenizer.json's
 *              added_tokens [token with "id"]
 *
 * Special strings are the listed tokens by id, then the roles that the list lacks, then the extra_special_tokens that both lack. Of
 * one text said differently the last one counts: a plain text after an object makes it one that is looked for before normalizing. A
 * text of the vocabulary has its id; others get the next free ones.
 */
#include "lib/tokenizer/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CLIP_LENGTH = 77, MAX_LENGTH = 65536, MAX_TOKENS = 4096 };

static const char *const role_names[] = { "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
	"mask_token" };

enum said { SAID_NO, SAID_YES, SAID_NOTHING };
struct token {
	const char *content;
	enum said normalized;
	bool plain, special, lstrip, rstrip;
	int64_t id; /* where a file states one, else -1 */
	const char *path;
};
struct reading {
	const struct qd_tokenizer_files *files;
	const struct qd_vocabulary *vocabulary;
	struct qd_tokenizer *t;
	struct token *tokens;
	size_t n, cap, listed;
	struct qd_strmap names; /* of the listed tokens */
	struct qd_strmap roles; /* texts that have a role */
	struct qd_strmap ids;   /* of the special strings */
	bool decoder;           /* tokenizer_config.json lists the tokens */
};

/* ---- one token ---- */

static enum qd_status read_token(const char *what, const json_t *value, const char *path, struct token *token)
{
	const json_t *content = json_is_object(value) ? json_object_get(value, "content") : value, *normalized;
	struct qd_fields f = { .what = path, .json = value };

	*token = (struct token){ .content = json_string_value(content), .normalized = SAID_NOTHING, .id = -1, .path = path };
	if (token->content == NULL || token->content[0] == '\0')
		return qd_fail(QD_EINPUT, "'%s': '%s' is neither a text nor an object with a text 'content'", path, what);
	normalized = qd_field(&f, "normalized");
	if (normalized != NULL && !json_is_null(normalized))
		token->normalized = qd_field_bool(&f, "normalized", false) ? SAID_YES : SAID_NO;
	token->plain = json_is_string(value);
	token->special = qd_field_bool(&f, "special", false) || token->plain;
	token->lstrip = qd_field_bool(&f, "lstrip", false);
	token->rstrip = qd_field_bool(&f, "rstrip", false);
	if (qd_field_bool(&f, "single_word", false))
		qd_field_refuse(&f, QD_EUNSUPPORTED, "single_word", qd_field(&f, "single_word"), "false");
	return qd_prefix(f.status, "special token '%s'", token->content);
}

/* What a token says of itself where it does not say "normalized"; having a role does not count yet. */
static bool is_normalized(const struct token *token)
{
	return token->normalized == SAID_NOTHING ? !token->special : token->normalized == SAID_YES;
}

static bool same_token(const struct token *a, const struct token *b)
{
	return strcmp(a->content, b->content) == 0 && a->plain == b->plain && is_normalized(a) == is_normalized(b) &&
	       a->special == b->special && a->lstrip == b->lstrip && a->rstrip == b->rstrip;
}

static enum qd_status push_token(struct reading *r, const struct token *token)
{
	enum qd_status st;
	if (r->n == MAX_TOKENS)
		QD_TRY(st, qd_fail(QD_EUNSUPPORTED, "'%s': '%s' is one special token too many, at most %d are supported",
				   token->path, token->content, MAX_TOKENS));
	QD_PUSH(st, r->tokens, r->n, r->cap, *token);
out:
	return st;
}

/* ---- listed tokens ---- */

/* Keeps the list sorted by id; a later token of the same id takes the place. */
static enum qd_status list_token(struct reading *r, struct token *token, int64_t id)
{
	size_t at = r->n;
	enum qd_status st;

	token->id = id;
	while (at > 0 && r->tokens[at - 1].id > id)
		at--;
	if (at > 0 && r->tokens[at - 1].id == id) {
		r->tokens[at - 1] = *token;
		return QD_OK;
	}
	QD_TRY(st, push_token(r, token));
	memmove(r->tokens + at + 1, r->tokens + at, (r->n - 1 - at) * sizeof(*r->tokens));
	r->tokens[at] = *token;
out:
	return st;
}

static enum qd_status list_decoder(struct reading *r, json_t *decoder)
{
	const char *path = r->files->config_path, *key;
	json_t *value;
	struct token token;
	enum qd_status st = QD_OK;

	if (!json_is_object(decoder))
		return qd_fail(QD_EINPUT, "'%s': field 'added_tokens_decoder' is not an object", path);
	json_object_foreach(decoder, key, value)
	{
		char *end;
		long long id = strtoll(key, &end, 10);
		if (*end != '\0' || end == key || id < 0)
			QD_TRY(st, qd_fail(QD_EINPUT, "'%s': '%s' of 'added_tokens_decoder' is no id", path, key));
		QD_TRY(st, read_token("added_tokens_decoder", value, path, &token));
		QD_TRY(st, list_token(r, &token, id));
	}
out:
	return st;
}

static enum qd_status list_added(struct reading *r)
{
	const char *path = r->files->added_path, *text;
	json_t *value;
	struct token token;
	enum qd_status st = QD_OK;

	if (r->files->added != NULL && !json_is_object(r->files->added))
		return qd_fail(QD_EINPUT, "'%s' is not an object of texts and ids", path);
	json_object_foreach(r->files->added, text, value)
	{
		bool special = qd_strmap_get(&r->roles, text) != QD_NONE;
		if (!json_is_integer(value) || json_integer_value(value) < 0)
			QD_TRY(st, qd_fail(QD_EINPUT, "'%s': the id of '%s' is not a whole number", path, text));
		token = (struct token){
			.content = text, .normalized = special ? SAID_NO : SAID_YES, .special = special, .path = path
		};
		QD_TRY(st, list_token(r, &token, json_integer_value(value)));
	}
out:
	return st;
}

static enum qd_status list_tokenizer(struct reading *r)
{
	const json_t *list = json_object_get(r->files->tokenizer, "added_tokens"), *value;
	const char *path = r->files->tokenizer_path;
	struct token token;
	size_t i;
	enum qd_status st = QD_OK;

	if (list != NULL && !json_is_array(list))
		return qd_fail(QD_EINPUT, "'%s': field 'added_tokens' is not a list", path);
	json_array_foreach(list, i, value)
	{
		const json_t *id = json_object_get(value, "id");
		if (!json_is_integer(id) || json_integer_value(id) < 0)
			QD_TRY(st, qd_fail(QD_EINPUT, "'%s': the 'id' of added token %zu is not a whole number", path, i));
		QD_TRY(st, read_token("added_tokens", value, path, &token));
		QD_TRY(st, list_token(r, &token, json_integer_value(id)));
	}
out:
	return st;
}

/* ---- roles ---- */

/* Where a field counts from: special_tokens_map.json before tokenizer_config.json, unless the latter lists the tokens. */
static json_t *setting(const struct reading *r, const char *name, const char **path)
{
	json_t *value = r->decoder ? NULL : json_object_get(r->files->map, name);

	*path = value != NULL ? r->files->map_path : r->files->config_path;
	return value != NULL ? value : json_object_get(r->files->config, name);
}

/* The token of a role: CLIP's where the files do not say; content NULL where they say null, or CLIP has none. */
static enum qd_status read_role(const struct reading *r, const char *name, struct token *token)
{
	const char *path, *text = "<|endoftext|>";
	const json_t *value = setting(r, name, &path);
	bool ours = strcmp(name, "eos_token") == 0 || strcmp(name, "unk_token") == 0 || strcmp(name, "pad_token") == 0;

	*token = (struct token){ .normalized = SAID_NOTHING, .plain = true, .special = true, .id = -1, .path = path };
	if (strcmp(name, "bos_token") == 0)
		text = "<|startoftext|>";
	else if (!ours)
		text = NULL;
	if (value == NULL)
		token->content = text;
	if (value == NULL || json_is_null(value))
		return QD_OK;
	enum qd_status st = read_token(name, value, path, token);
	token->special |= path == r->files->map_path;
	return st;
}

static enum qd_status note_role(struct reading *r, const struct token *token)
{
	return token->content != NULL ? qd_strmap_put(&r->roles, token->content, 0) : QD_OK;
}

static bool known(const struct reading *r, const struct token *token)
{
	bool found = token->content == NULL || qd_strmap_get(&r->names, token->content) != QD_NONE;

	for (size_t i = r->listed; i < r->n && !found; i++)
		found = same_token(&r->tokens[i], token);
	return found;
}

static enum qd_status add_unknown(struct reading *r, const struct token *token)
{
	return known(r, token) ? QD_OK : push_token(r, token);
}

static bool standard_role(const char *name)
{
	for (size_t i = 0; i < QD_COUNT(role_names); i++)
		if (strcmp(name, role_names[i]) == 0)
			return true;
	return false;
}

/* Calls `each` for every role. */
static enum qd_status each_role(struct reading *r, enum qd_status (*each)(struct reading *r, const struct token *token))
{
	json_t *const objects[] = { r->files->config, r->decoder ? NULL : r->files->map };
	struct token token;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < QD_COUNT(role_names); i++) {
		QD_TRY(st, read_role(r, role_names[i], &token));
		QD_TRY(st, each(r, &token));
	}
	for (size_t i = 0; i < QD_COUNT(objects); i++) {
		const char *name;
		json_t *value;
		json_object_foreach(objects[i], name, value)
		{
			if (!qd_ends_with(name, "_token") || standard_role(name) ||
				!(json_is_string(value) || json_is_object(value)))
				continue;
			QD_TRY(st, read_role(r, name, &token));
			QD_TRY(st, each(r, &token));
		}
	}
out:
	return st;
}

/* A list of tokens, or an object of them by name. */
static enum qd_status add_extra(struct reading *r, json_t *value, const char *path)
{
	const char *name;
	json_t *item;
	size_t i;
	struct token token;
	enum qd_status st = QD_OK;

	json_array_foreach(value, i, item)
	{
		QD_TRY(st, read_token("extra_special_tokens", item, path, &token));
		QD_TRY(st, add_unknown(r, &token));
	}
	json_object_foreach(value, name, item)
	{
		QD_TRY(st, read_token(name, item, path, &token));
		QD_TRY(st, note_role(r, &token));
		QD_TRY(st, add_unknown(r, &token));
	}
out:
	return st;
}

static bool is_empty(const json_t *value)
{
	return json_array_size(value) == 0 && json_object_size(value) == 0;
}

/* extra_special_tokens, in older files additional_special_tokens; the old name counts only where the new one is not used. */
static enum qd_status add_extras(struct reading *r)
{
	const json_t *config = r->files->config, *map = r->decoder ? NULL : r->files->map;
	json_t *extra = json_object_get(config, "extra_special_tokens"),
	       *old = json_object_get(config, "additional_special_tokens");
	json_t *mapped = json_object_get(map, "extra_special_tokens");
	enum qd_status st;

	if (extra == NULL && old == NULL && mapped == NULL)
		mapped = json_object_get(map, "additional_special_tokens");
	QD_TRY(st, add_extra(r, is_empty(extra) ? old : extra, r->files->config_path));
	QD_TRY(st, add_extra(r, mapped, r->files->map_path));
out:
	return st;
}

static enum qd_status collect(struct reading *r)
{
	json_t *decoder = json_object_get(r->files->config, "added_tokens_decoder");
	enum qd_status st;

	r->decoder = decoder != NULL;
	QD_TRY(st, each_role(r, note_role));
	if (r->decoder)
		QD_TRY(st, list_decoder(r, decoder));
	else {
		QD_TRY(st, list_added(r));
		QD_TRY(st, list_tokenizer(r));
	}
	r->listed = r->n;
	for (size_t i = 0; i < r->listed; i++)
		QD_TRY(st, qd_strmap_put(&r->names, r->tokens[i].content, (uint32_t)i));
	QD_TRY(st, each_role(r, add_unknown));
	QD_TRY(st, add_extras(r));
out:
	return st;
}

/* ---- special strings ---- */

static enum qd_status find_id(struct reading *r, const struct token *token, uint32_t *id)
{
	*id = qd_strmap_get(&r->vocabulary->ids, token->content);
	if (*id == QD_NONE) {
		/* New ids are counted from the number of symbols, which is free only where ids have no holes. */
		if (r->vocabulary->size != r->vocabulary->ids.n)
			return qd_fail(QD_EINPUT,
				"'%s': '%s' is in no vocabulary, and '%s' has %u symbols for ids up to %zu, no next one",
				token->path, token->content, r->vocabulary->path, r->vocabulary->ids.n, r->vocabulary->size - 1);
		*id = (uint32_t)r->t->size;
	}
	if (token->id >= 0 && token->id != *id)
		return qd_fail(QD_EINPUT, "'%s': '%s' has the id %lld, the vocabulary gives it %u", token->path, token->content,
			(long long)token->id, *id);
	r->t->size = r->t->size > *id ? r->t->size : (size_t)*id + 1;
	return QD_OK;
}

static enum qd_status add_special(struct reading *r, const struct token *token)
{
	bool special = token->special || qd_strmap_get(&r->roles, token->content) != QD_NONE;
	struct qd_special made = { .normalized = special && token->normalized == SAID_NOTHING ? false : is_normalized(token) };
	uint32_t known = qd_strmap_get(&r->ids, token->content);
	enum qd_status st = QD_OK;

	if (known != QD_NONE) {
		r->t->specials[known].normalized = made.normalized;
		return QD_OK;
	}
	QD_TRY(st, find_id(r, token, &made.id));
	QD_TRY(st, qd_points_decode(&made.points, token->content, strlen(token->content)));
	QD_TRY(st, qd_strmap_put(&r->ids, token->content, (uint32_t)r->t->n_specials));
	QD_PUSH(st, r->t->specials, r->t->n_specials, r->t->specials_cap, made);
	made.points = (struct qd_points){ 0 };
out:
	qd_points_release(&made.points);
	return st;
}

static int longest_first(const void *a, const void *b)
{
	const struct qd_special *x = a, *y = b;
	return x->points.n != y->points.n ? (x->points.n < y->points.n) - (x->points.n > y->points.n)
					  : (x->id > y->id) - (x->id < y->id);
}

/* A normalized special string is looked for as normalizing leaves it. */
static enum qd_status finish_specials(struct qd_tokenizer *t)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < t->n_specials; i++) {
		struct qd_special *special = &t->specials[i];
		struct qd_points normal = { 0 };
		if (!special->normalized)
			continue;
		st = qd_points_normalize(&normal, special->points.items, special->points.n);
		qd_points_release(&special->points);
		special->points = normal;
		if (st != QD_OK)
			return st;
	}
	for (size_t i = 0; i < t->n_specials; i++)
		t->begins[t->specials[i].normalized][t->specials[i].points.items[0] & 0xff] = true;
	if (t->n_specials > 0)
		qsort(t->specials, t->n_specials, sizeof(*t->specials), longest_first);
	return st;
}

/* ---- settings ---- */

static enum qd_status find_role(const struct reading *r, const char *name, uint32_t *id)
{
	struct token token;
	enum qd_status st;

	QD_TRY(st, read_role(r, name, &token));
	if (token.content == NULL)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s': field '%s' is null, needs a text", token.path, name));
	*id = r->t->specials[qd_strmap_get(&r->ids, token.content)].id;
out:
	return st;
}

/* Writers without a limit put 1e30, so a number no text encoder could have counts as none. */
static size_t read_length(struct qd_fields *f)
{
	const char *name = qd_field(f, "model_max_length") != NULL ? "model_max_length" : "max_len";
	double length = qd_field_number(f, name, 2, INFINITY, CLIP_LENGTH);

	if (length > MAX_LENGTH)
		return CLIP_LENGTH;
	if (length != (double)(size_t)length)
		qd_field_refuse(f, QD_EINPUT, name, qd_field(f, name), "a whole number from 2 up");
	return (size_t)length;
}

static enum qd_status check_settings(const struct qd_tokenizer_files *files, size_t *length)
{
	static const char *const classes[] = { "CLIPTokenizer", "CLIPTokenizerFast", NULL }, *const sides[] = { "right", NULL };
	struct qd_fields f = { .what = files->config_path, .json = files->config };

	if (files->config != NULL && !json_is_object(files->config))
		return qd_fail(QD_EINPUT, "'%s' is not an object", files->config_path);
	if (files->map != NULL && !json_is_object(files->map))
		return qd_fail(QD_EINPUT, "'%s' is not an object", files->map_path);
	qd_field_choice(&f, "tokenizer_class", classes, 0);
	qd_field_choice(&f, "padding_side", sides, 0);
	qd_field_choice(&f, "truncation_side", sides, 0);
	if (json_is_true(qd_field(&f, "split_special_tokens")))
		qd_field_refuse(&f, QD_EUNSUPPORTED, "split_special_tokens", qd_field(&f, "split_special_tokens"), "false");
	*length = read_length(&f);
	return f.status;
}

enum qd_status qd_tokenizer_read_settings(
	struct qd_tokenizer *t, const struct qd_vocabulary *vocabulary, const struct qd_tokenizer_files *files)
{
	struct reading r = { .files = files, .vocabulary = vocabulary, .t = t };
	enum qd_status st;

	t->size = vocabulary->size;
	QD_TRY(st, check_settings(files, &t->length));
	QD_TRY(st, collect(&r));
	for (size_t i = 0; i < r.n; i++)
		QD_TRY(st, add_special(&r, &r.tokens[i]));
	QD_TRY(st, find_role(&r, "bos_token", &t->start));
	QD_TRY(st, find_role(&r, "eos_token", &t->end));
	QD_TRY(st, find_role(&r, "pad_token", &t->pad));
	QD_TRY(st, finish_specials(t));
out:
	free(r.tokens);
	qd_strmap_release(&r.names);
	qd_strmap_release(&r.roles);
	qd_strmap_release(&r.ids);
	return st;
}
