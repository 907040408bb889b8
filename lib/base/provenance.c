/*
 * What an output was made from, as an object:
 *
 *   { "program": "quad 1.0", "command": "calib",
 *     "options": { "seed": "0", "trajectory": "ddim:50" },                       those that shape the output, as they are spelled
 *     "inputs": [ { "role": "adapter", "name": "night", "hash": "xxh3-128:..." } ] }    "name" where the output has the name too
 *
 * A JSON document has it under "provenance", a safetensors file as the text of its metadata "quad.provenance".
 */
#include "lib/base/base.h"

#include <stdlib.h>
#include <string.h>

enum qd_status qd_provenance_option(struct qd_provenance *p, const char *name, const char *value)
{
	struct qd_made_option option = { qd_arena_strdup(&p->arena, name), qd_arena_strdup(&p->arena, value) };
	enum qd_status st = option.name != NULL && option.value != NULL ? QD_OK : QD_ENOMEM;

	if (st == QD_OK)
		QD_PUSH(st, p->options, p->n_options, p->cap_options, option);
out:
	return st;
}

enum qd_status qd_provenance_input(struct qd_provenance *p, const char *role, const char *name, const char *hash)
{
	struct qd_made_input input = { .role = qd_arena_strdup(&p->arena, role), .hash = qd_arena_strdup(&p->arena, hash) };
	enum qd_status st;

	if (name != NULL)
		input.name = qd_arena_strdup(&p->arena, name);
	st = input.role != NULL && input.hash != NULL && (input.name != NULL) == (name != NULL) ? QD_OK : QD_ENOMEM;
	if (st == QD_OK)
		QD_PUSH(st, p->inputs, p->n_inputs, p->cap_inputs, input);
out:
	return st;
}

enum qd_status qd_provenance_file(struct qd_provenance *p, const char *role, const char *path)
{
	char hash[QD_HASH_TEXT];
	enum qd_status st = qd_hash_file(path, hash);

	return st == QD_OK ? qd_provenance_input(p, role, NULL, hash) : st;
}

void qd_provenance_release(struct qd_provenance *p)
{
	free(p->options);
	free(p->inputs);
	qd_arena_release(&p->arena);
	*p = (struct qd_provenance){ 0 };
}

/* ---- out ---- */

/* As qd_json_append. */
static void set_member(json_t **object, const char *key, json_t *value)
{
	if (json_object_set_new(*object, key, value) == 0)
		return;
	json_decref(*object);
	*object = NULL;
}

json_t *qd_provenance_json(const struct qd_provenance *p)
{
	json_t *options = json_object(), *inputs = json_array();

	for (size_t i = 0; i < p->n_options; i++)
		set_member(&options, p->options[i].name, json_string(p->options[i].value));
	for (size_t i = 0; i < p->n_inputs; i++)
		qd_json_append(&inputs, json_pack("{s:s,s:s*,s:s}", "role", p->inputs[i].role, "name", p->inputs[i].name, "hash",
						p->inputs[i].hash));
	return json_pack("{s:s,s:s,s:o,s:o}", "program", p->program, "command", p->command, "options", options, "inputs", inputs);
}

enum qd_status qd_provenance_text(const struct qd_provenance *p, char **text)
{
	json_t *json = qd_provenance_json(p);
	enum qd_status st = qd_json_text(json, JSON_COMPACT, text);

	json_decref(json);
	return st;
}

/* ---- in ---- */

static enum qd_status text_of(struct qd_provenance *p, const json_t *object, const char *key, const char **out)
{
	const char *text = json_string_value(json_object_get(object, key));

	if (text == NULL)
		return qd_fail(QD_EINPUT, "has no text '%s'", key);
	*out = qd_arena_strdup(&p->arena, text);
	return *out != NULL ? QD_OK : QD_ENOMEM;
}

enum qd_status qd_provenance_read(struct qd_provenance *p, const json_t *json)
{
	json_t *options = json_object_get(json, "options"), *inputs = json_object_get(json, "inputs"), *value;
	const char *key, *role, *hash;
	size_t i;
	enum qd_status st;

	QD_TRY(st, text_of(p, json, "program", &p->program));
	QD_TRY(st, text_of(p, json, "command", &p->command));
	if (!json_is_object(options) || !json_is_array(inputs))
		QD_TRY(st, qd_fail(QD_EINPUT, "has no object 'options', or no list 'inputs'"));
	json_object_foreach(options, key, value)
	{
		if (!json_is_string(value))
			QD_TRY(st, qd_fail(QD_EINPUT, "option '%s' is no text", key));
		QD_TRY(st, qd_provenance_option(p, key, json_string_value(value)));
	}
	json_array_foreach(inputs, i, value)
	{
		QD_TRY(st, qd_prefix(text_of(p, value, "role", &role), "inputs[%zu]", i));
		QD_TRY(st, qd_prefix(text_of(p, value, "hash", &hash), "inputs[%zu]", i));
		QD_TRY(st, qd_provenance_input(p, role, json_string_value(json_object_get(value, "name")), hash));
	}
out:
	return qd_prefix(st, "the provenance");
}
