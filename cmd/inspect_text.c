/*
 * quad inspect on what is no model, adapter or list of tensors: JSON files of this program and of those around it, pictures, folders
 * of images, tokenizers. Each becomes one JSON object of facts; the text is that object, a line a fact.
 */
#include "cmd/inspect.h"
#include "export/file/file.h"
#include "lib/data/data.h"
#include "lib/tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

/* "PATH: WHAT", then the facts, of which lists print as what they hold. Takes over `facts`. */
static enum qd_status print_facts(
	const char *path, const char *kind, const char *what, json_t *facts, const struct qd_common *common)
{
	json_t *root = json_pack("{s:i,s:s,s:s,s:s}", "schema", 1, "kind", kind, "path", path, "holds", what), *value;
	const char *key;

	if (root == NULL || facts == NULL || json_object_update(root, facts) != 0) {
		json_decref(root);
		json_decref(facts);
		return qd_fail(QD_ENOMEM, "out of memory");
	}
	if (common->json) {
		json_decref(facts);
		return qd_print_json(root);
	}
	qd_print("%s: %s\n", path, what);
	json_object_foreach(facts, key, value)
	{
		char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
		qd_print("  %-11s %s\n", key, json_is_string(value) ? json_string_value(value) : text != NULL ? text : "?");
		free(text);
	}
	json_decref(facts);
	json_decref(root);
	return QD_OK;
}

/* ---- JSON ---- */

static enum qd_status inspect_profile(const char *path, const struct qd_common *common)
{
	struct qd_profile p;
	json_t *adapters = json_array(), *facts;
	enum qd_status st = qd_profile_read(&p, path);

	if (st != QD_OK) {
		json_decref(adapters);
		return st;
	}
	for (size_t i = 0; i < p.n_adapters; i++)
		json_array_append_new(adapters, json_string(p.adapters[i].name));
	facts = json_pack("{s:s,s:s,s:s?,s:s,s:o,s:I,s:I}", "base_hash", p.base_hash, "method", p.method, "anchor", p.anchor,
		"reason", p.reason, "adapters", adapters, "slots", (json_int_t)p.slots.n, "encodings", (json_int_t)p.n_entries);
	st = print_facts(path, "profile", "profile: the encodings that adapters share", facts, common);
	qd_profile_release(&p);
	return st;
}

static size_t size_of(const json_t *json, const char *key)
{
	const json_t *value = json_object_get(json, key);

	return json_is_object(value) ? json_object_size(value) : json_array_size(value);
}

static json_t *encodings_facts(const json_t *json)
{
	return json_pack("{s:s?,s:I,s:I}", "version", json_string_value(json_object_get(json, "version")), "activations",
		(json_int_t)size_of(json, "activation_encodings"), "params", (json_int_t)size_of(json, "param_encodings"));
}

static json_t *index_facts(const json_t *json)
{
	const char *of = json_object_get(json, "weight_map") != NULL ? "weight_map" : "files";

	return json_pack("{s:I}", "entries", (json_int_t)size_of(json, of));
}

static json_t *class_facts(const json_t *json)
{
	const char *name = json_string_value(json_object_get(json, "_class_name"));

	return json_pack("{s:s}", "class", name != NULL ? name : "");
}

static json_t *architecture_facts(const json_t *json)
{
	const char *name = json_string_value(json_array_get(json_object_get(json, "architectures"), 0));

	return json_pack("{s:s}", "class", name != NULL ? name : "");
}

static json_t *no_facts(const json_t *json)
{
	return json_pack("{s:I}", "members", (json_int_t)(json_is_object(json) ? json_object_size(json) : json_array_size(json)));
}

/* The first row whose member is there counts; the last fits everything. */
static const struct {
	const char *member, *kind, *holds;
	json_t *(*facts)(const json_t *json);
} documents[] = {
	{ "activation_encodings", "encodings", "encodings of an exported graph", encodings_facts },
	{ "weight_map", "index", "index of a model's weights in several files", index_facts },
	{ "peft_type", "config", "configuration of a PEFT adapter, whose weights are beside it", no_facts },
	{ "_class_name", "config", "configuration of diffusers", class_facts },
	{ "architectures", "config", "configuration of transformers", architecture_facts },
	{ "tokenizer_class", "config", "configuration of a tokenizer", no_facts },
	{ "program", "index", "index of the files that quad wrote in a folder", index_facts },
	{ NULL, "json", "JSON that says nothing to quad", no_facts },
};

enum qd_status qd_inspect_json(const char *path, const struct qd_common *common)
{
	json_t *json = NULL;
	size_t i = 0;
	enum qd_status st = qd_json_read(path, &json);

	if (st != QD_OK)
		return st;
	if (json_object_get(json, "base_hash") != NULL && json_object_get(json, "entries") != NULL) {
		st = inspect_profile(path, common);
	} else if (json_object_get(json, "program") != NULL && json_object_get(json, "slots") != NULL) {
		st = qd_inspect_manifest(path, path, common);
	} else {
		while (documents[i].member != NULL && json_object_get(json, documents[i].member) == NULL)
			i++;
		st = print_facts(path, documents[i].kind, documents[i].holds, documents[i].facts(json), common);
	}
	json_decref(json);
	return st;
}

/* ---- text, pictures ---- */

enum qd_status qd_inspect_text(const char *path, const struct qd_mapping *file, const struct qd_common *common)
{
	size_t lines = 0;

	for (size_t i = 0; i < file->size; i++)
		lines += file->data[i] == '\n' || i + 1 == file->size;
	return print_facts(path, "text",
		qd_ends_with(path, ".jsonl") ? "table of captions, an object a line"
		: qd_ends_with(path, ".csv") ? "table of captions"
					     : "text, such as --slots FILE takes: a module's path a line",
		json_pack("{s:I}", "lines", (json_int_t)lines), common);
}

enum qd_status qd_inspect_picture(const char *path, const struct qd_common *common)
{
	struct qd_image image;
	enum qd_status st = qd_image_read(path, &image);

	if (st != QD_OK)
		return st;
	st = print_facts(path, "picture", "picture", json_pack("{s:i,s:i}", "width", image.width, "height", image.height), common);
	qd_image_release(&image);
	return st;
}

/* ---- folders ---- */

static enum qd_status inspect_tokenizer(const char *path, const struct qd_common *common)
{
	struct qd_tokenizer *tokenizer = NULL;
	enum qd_status st = qd_tokenizer_open(&tokenizer, path);

	if (st == QD_OK)
		st = print_facts(path, "tokenizer", "CLIP tokenizer",
			json_pack("{s:I,s:I}", "symbols", (json_int_t)qd_tokenizer_size(tokenizer), "length",
				(json_int_t)qd_tokenizer_length(tokenizer)),
			common);
	qd_tokenizer_free(tokenizer);
	return st;
}

static enum qd_status inspect_images(const char *path, const struct qd_image_folder *folder, const struct qd_common *common)
{
	size_t captions = 0, masks = 0, conditions = 0;

	for (size_t i = 0; i < folder->n; i++) {
		captions += folder->rows[i].text[0] != '\0';
		masks += folder->rows[i].mask != NULL;
		conditions += folder->rows[i].condition != NULL;
	}
	return print_facts(path, "images", "images (quad calib --data)",
		json_pack("{s:I,s:I,s:I,s:I}", "images", (json_int_t)folder->n, "captions", (json_int_t)captions, "masks",
			(json_int_t)masks, "conditions", (json_int_t)conditions),
		common);
}

enum qd_status qd_inspect_folder(const char *path, const struct qd_common *common, bool *known)
{
	struct qd_image_folder folder = { 0 };
	struct qd_tensor_set arrays;
	char config[QD_PATH_BYTES];
	enum qd_status st = QD_OK;

	*known = true;
	if (qd_has_file(path, "tokenizer.json") || qd_has_file(path, "vocab.json"))
		return inspect_tokenizer(path, common);
	if (qd_has_file(path, "scheduler_config.json")) {
		st = qd_path_join(config, path, "scheduler_config.json");
		return st == QD_OK ? qd_inspect_json(config, common) : st;
	}
	if (qd_is_prepare_store(path))
		return print_facts(path, "parts", "parts of an unfinished quad calib (the same command goes on from them)",
			json_object(), common);
	if (qd_tensor_set_open(&arrays, path) == QD_OK) {
		qd_tensor_set_release(&arrays);
		return qd_inspect_arrays(path, common);
	}
	st = qd_image_folder_open(&folder, path, "text");
	if (st == QD_OK && folder.n > 0)
		st = inspect_images(path, &folder, common);
	else if (!qd_has_file(path, "metadata.jsonl") && !qd_has_file(path, "metadata.csv"))
		*known = false;
	qd_image_folder_release(&folder);
	return *known ? st : QD_OK;
}
