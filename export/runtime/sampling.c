/*
 * Sampling from files: the loop over a scheduler's steps. A fitted sampler (lib/sampler/sampler.h) is only used for the guidance
 * and the model that it was fitted to.
 */
#include "export/runtime/session.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

enum { DEFAULT_STEPS = 8 };

static const char olss_prefix[] = "olss:";

static const char *olss_path(const struct qd_sampling_options *options)
{
	return qd_starts_with(options->scheduler, olss_prefix) ? options->scheduler + sizeof(olss_prefix) - 1 : NULL;
}

enum qd_status qd_sampling_steps(const struct qd_sampling_options *options, int *steps)
{
	struct qd_olss olss;
	enum qd_status st;

	*steps = options->steps > 0 ? options->steps : DEFAULT_STEPS;
	if (olss_path(options) == NULL || options->steps > 0)
		return QD_OK;
	st = qd_olss_read(&olss, olss_path(options));
	if (st == QD_OK)
		*steps = olss.steps;
	qd_olss_release(&olss);
	return st;
}

/* Coefficients mean nothing under another guidance or for another model. */
static enum qd_status check_olss(const struct qd_sampling_options *options, const struct qd_session *s)
{
	const char *path = olss_path(options);
	char hash[QD_HASH_TEXT];
	struct qd_olss olss = { 0 };
	enum qd_status st = QD_OK;

	if (path == NULL)
		return QD_OK;
	QD_TRY(st, qd_olss_read(&olss, path));
	if (olss.guidance != options->guidance)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' was fitted for guidance %g, asked for is %g", path, olss.guidance,
				   options->guidance));
	QD_TRY(st, qd_runtime_base_hash(&s->runtime, hash));
	if (olss.base_hash[0] != '\0' && strcmp(olss.base_hash, hash) != 0)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' was fitted on the model %s, '%s' is %s", path, olss.base_hash,
				   options->engine.base, hash));
out:
	qd_olss_release(&olss);
	return st;
}

/* Of the output; a view has its input's. NULL: not simulated. */
static const struct qd_encoding *output_encoding(const struct qd_graph *g)
{
	qd_id value = g->outputs[0];
	while (g->values[value].kind == QD_RESULT && g->nodes[g->values[value].producer].op == QD_OP_IDENTITY)
		value = g->nodes[g->values[value].producer].in[0];
	return g->values[value].encoding;
}

/* With the range that the output's encoding covers: differences are held against it. */
static enum qd_status write_trace(const struct qd_session *s)
{
	const struct qd_encoding *e = output_encoding(s->runtime.runner.graph);
	char range[32];
	char *made = NULL;
	const char *metadata[] = { QD_PROVENANCE_KEY, NULL, QD_TRACE_RANGE, range };
	enum qd_status st;

	if (e != NULL)
		snprintf(range, sizeof(range), "%.9g", (double)((qd_encoding_high(e) - qd_encoding_low(e)) * e->scale[0]));
	QD_TRY(st, qd_provenance_text(s->options->provenance, &made));
	metadata[1] = made;
	st = qd_safetensors_write(s->options->trace, s->traced, s->n_traced, metadata, e != NULL ? 2 : 1, true, NULL, NULL);
out:
	free(made);
	return st;
}

/* Everything that shapes the samples beside the options. */
static enum qd_status note_inputs(const struct qd_session *s, const struct qd_schedule *schedule)
{
	struct qd_provenance *made = s->options->provenance;
	struct qd_text inputs;
	char hash[QD_HASH_TEXT];
	enum qd_status st;

	QD_TRY(st, qd_text_open(&inputs));
	qd_tensor_set_print(&s->file, inputs.stream);
	QD_TRY(st, qd_text_end(&inputs));
	qd_hash_bytes(inputs.bytes, inputs.n, hash);
	QD_TRY(st, qd_provenance_input(made, "inputs", NULL, hash));
	QD_TRY(st, qd_runtime_note(&s->runtime, made));
	qd_schedule_hash(schedule, hash);
	QD_TRY(st, qd_provenance_input(made, "schedule", NULL, hash));
	if (olss_path(s->options) != NULL)
		st = qd_provenance_file(made, "sampler", olss_path(s->options));
out:
	qd_text_release(&inputs);
	return st;
}

enum qd_status qd_sample_file(const struct qd_sampling_options *options, struct qd_tensor *latents)
{
	enum qd_status st;
	struct qd_session s = { 0 };
	struct qd_schedule schedule = { 0 };
	struct qd_scheduler scheduler = { 0 };
	struct qd_sampling sampling;
	int steps;

	memset(latents, 0, sizeof(*latents));
	QD_TRY(st, qd_sampling_steps(options, &steps));
	QD_TRY(st, qd_session_open(&s, options));
	QD_TRY(st, check_olss(options, &s));
	QD_TRY(st, qd_session_spread_condition(&s));
	QD_TRY(st, qd_session_noise(&s, latents));
	QD_TRY(st, qd_runtime_schedule(&s.runtime, &schedule));
	QD_TRY(st, qd_scheduler_new(&scheduler, &schedule, options->scheduler, steps));
	if (options->provenance != NULL)
		QD_TRY(st, note_inputs(&s, &schedule));
	sampling = qd_session_sampling(&s, &scheduler);
	QD_TRY(st, qd_sample(&sampling, qd_session_denoise, &s, latents->data));
	if (options->trace != NULL)
		QD_TRY(st, write_trace(&s));
out:
	if (st != QD_OK)
		qd_tensor_release(latents);
	qd_scheduler_release(&scheduler);
	qd_schedule_release(&schedule);
	qd_session_release(&s);
	return st;
}
