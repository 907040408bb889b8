/*
 * quad qss: scores adapters, chooses the encodings they share, and writes the profile.
 */
#include "cmd/cmd.h"
#include "lib/sampler/sampler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char doc[] =
	"Score adapters, choose the shared encodings, write profile.json.\v"
	"FILE (safetensors, .npz, a folder of .npy; several are joined) holds samples under the names of the "
	"model's inputs. The table gives each adapter's Quantization "
	"Sensitivity Score with its "
	"standard error, the output's SQNR under the adapter's own encodings, and the SQNR of its update (up "
	"diag(gain) down) under its own, "
	"under the shared and under the shared encodings after alignment. The adapter marked with * is the "
	"anchor. Without -o no activation "
	"is calibrated and only the table is made.\n\n"
	"With --compare the table shows instead what each choice costs the output of the simulated model, W8A16 or "
	"as the options say: own, a graph for each adapter under its own encodings; shared, one graph for all under "
	"the encodings chosen, adapters as they are; aligned, the profile that -o writes. In dB, 6 are one bit.";

struct qss {
	struct qd_quant_options quant;
	struct qd_texts calib;
	bool compare;
	struct qd_common common;
};

#define FIELD(field) QD_FIELD(struct qss, field)
static const struct qd_option data_table[] = {
	{ "calib", QD_OPT_TEXTS, FIELD(calib), .untold = true, .required = true, .arg = "FILE",
		.help = "calibration data: safetensors, .npz or a folder of .npy; may be repeated" },
	{ "compare", QD_OPT_FLAG, FIELD(compare), .untold = true,
		.help = "show the simulated model's output under own, shared and aligned encodings" },
	{ 0 },
};

/* The rows of options.def: what an option is, and within which bounds. */
#define KIND_BITS(...) QD_OPT_CHOICE
#define KIND_CHOICE(type, names) QD_OPT_CHOICE
#define KIND_NUMBER(low, high) QD_OPT_NUMBER
#define KIND_WHOLE(low, high) QD_OPT_INT
#define KIND_TEXT QD_OPT_TEXT
#define KIND_TEXT_OR(names) QD_OPT_TEXT
#define BOUNDS_BITS(...)                                                                                                           \
	.values = (const int[])                                                                                                    \
	{                                                                                                                          \
		__VA_ARGS__, QD_VALUES_END                                                                                         \
	}
#define BOUNDS_CHOICE(type, spelled) .names = spelled
#define BOUNDS_NUMBER(least, most) .from = least, .to = most
#define BOUNDS_WHOLE(least, most) .low = least, .high = most
#define BOUNDS_TEXT .names = NULL
#define BOUNDS_TEXT_OR(names) .name_at = names
static const struct qd_option quant_table[] = {
#define OPTION(type, field, option, normal, written, value, otherwise, text)                                                       \
	{ option, KIND_##type, FIELD(quant.field), BOUNDS_##type, .arg = value, .absent = otherwise, .help = text },
#include "quant/options.def"
#undef OPTION
	{ 0 },
};

/* ---- printing ---- */

static const char *db_text(double db, char *buffer, size_t size)
{
	snprintf(buffer, size, isfinite(db) ? "%.1f" : isnan(db) ? "-" : "inf", db);
	return buffer;
}

/* `compared` NULL: not asked for. */
static void print_row(const struct qd_profile *p, const struct qd_adapter_score *a, const struct qd_comparison *compared, int width)
{
	const double db[] = { a->output_sqnr_db, compared != NULL ? compared->own : a->update_own_db,
		compared != NULL ? compared->shared : a->update_shared_db,
		compared != NULL ? compared->aligned : a->update_aligned_db };
	bool anchor = p->anchor != NULL && strcmp(p->anchor, a->name) == 0;
	char text[32];

	qd_print("%-*s %c %4lld %5zu  %9.3e +- %7.1e", width, a->name, anchor ? '*' : ' ', (long long)a->rank, a->n_slots, a->qss,
		a->standard_error);
	for (size_t i = 0; i < QD_COUNT(db); i++)
		qd_print("  %7s", db_text(db[i], text, sizeof(text)));
	qd_print("\n");
}

static void print_table(const struct qd_profile *p, const struct qd_comparison *compared)
{
	int width = 7;

	for (size_t i = 0; i < p->n_adapters; i++)
		width = (int)strlen(p->adapters[i].name) > width ? (int)strlen(p->adapters[i].name) : width;
	qd_print("%-*s                                        output  %s\n", width, "",
		compared != NULL ? "- simulated output, dB -" : "----- update, dB -----");
	qd_print("%-*s   %4s %5s  %20s  %7s  %7s  %7s  %7s\n", width, "adapter", "rank", "slots", "QSS +- s.e.", "dB", "own",
		"shared", "aligned");
	for (size_t i = 0; i < p->n_adapters; i++)
		print_row(p, &p->adapters[i], compared != NULL ? &compared[i] : NULL, width);
	if (p->anchor != NULL)
		qd_print("anchor: %s (%s)\n", p->anchor, p->reason);
	else
		qd_print("unified encodings (%s)\n", p->reason);
}

static json_t *choices_json(double own, double shared, double aligned)
{
	return json_pack(
		"{s:o,s:o,s:o}", "own", qd_finite_json(own), "shared", qd_finite_json(shared), "aligned", qd_finite_json(aligned));
}

static json_t *row_json(const struct qd_adapter_score *a, const struct qd_comparison *compared)
{
	json_t *samples = json_array(), *row;

	for (size_t i = 0; i < a->n_samples; i++)
		json_array_append_new(samples, json_real(a->per_sample[i]));
	row = json_pack("{s:s,s:I,s:I,s:f,s:f,s:o,s:o,s:o}", "name", a->name, "rank", (json_int_t)a->rank, "slots",
		(json_int_t)a->n_slots, "qss", a->qss, "standard_error", a->standard_error, "output_sqnr_db",
		qd_finite_json(a->output_sqnr_db), "update_sqnr_db",
		choices_json(a->update_own_db, a->update_shared_db, a->update_aligned_db), "per_sample", samples);
	if (compared != NULL)
		json_object_set_new(row, "simulated_sqnr_db", choices_json(compared->own, compared->shared, compared->aligned));
	return row;
}

static enum qd_status print_json(const struct qd_profile *p, const struct qd_comparison *compared)
{
	json_t *adapters = json_array(), *all;

	for (size_t i = 0; i < p->n_adapters; i++)
		json_array_append_new(adapters, row_json(&p->adapters[i], compared != NULL ? &compared[i] : NULL));
	all = json_pack("{s:i,s:s,s:s?,s:s,s:o}", "schema", 1, "method", p->method, "anchor", p->anchor, "reason", p->reason,
		"adapters", adapters);
	return all != NULL ? qd_print_json(all) : qd_fail(QD_ENOMEM, "out of memory");
}

/* ---- the command ---- */

/* A policy's name is an option, a file of layers an input. */
static enum qd_status note_slots(struct qd_provenance *made, const char *slots)
{
	for (size_t i = 0; qd_slots_policy_name(i) != NULL; i++)
		if (slots == NULL || strcmp(slots, qd_slots_policy_name(i)) == 0)
			return QD_OK;
	return qd_provenance_file(made, "slots", slots);
}

/* Everything that shaped the profile; it takes the command's provenance. */
static enum qd_status note_inputs(struct qss *qss, const struct qd_dataset *data, struct qd_profile *profile)
{
	struct qd_provenance *made = &profile->provenance;
	char hash[QD_HASH_TEXT];
	enum qd_status st;

	*made = qss->common.provenance;
	qss->common.provenance = (struct qd_provenance){ 0 };
	QD_TRY(st, qd_provenance_input(made, "base", NULL, profile->base_hash));
	for (size_t i = 0; i < profile->n_adapters; i++)
		QD_TRY(st, qd_provenance_input(made, "adapter", profile->adapters[i].name, profile->adapters[i].hash));
	QD_TRY(st, qd_dataset_hash(data, hash));
	QD_TRY(st, qd_provenance_input(made, "calib", NULL, hash));
	st = note_slots(made, qss->quant.slots);
out:
	return st;
}

static enum qd_status run(struct qss *qss)
{
	const struct qd_common *common = &qss->common;
	struct qd_opened opened = { 0 };
	struct qd_dataset data = { 0 };
	struct qd_schedule schedule = { 0 };
	struct qd_profile profile = { 0 };
	struct qd_comparison *compared = NULL;
	enum qd_status st;

	QD_TRY(st, qd_check_apart(common, common->output, qss->calib.items, qss->calib.n));
	QD_TRY(st, qd_check_apart(common, common->output, &qss->quant.slots, 1));
	QD_TRY(st, qd_check_output(common, common->output));
	QD_TRY(st, qd_open_all(&opened, common));
	QD_TRY(st, qd_dataset_open(&data, qss->calib.items, qss->calib.n, &opened.model.config, QD_DATA_CALIBRATE));
	/* of a sampler that this program does not know the steps stay unknown: nothing is sampled here */
	if (qd_model_schedule(&schedule, &opened.model) != QD_OK)
		schedule.train_steps = 0;
	QD_TRY(st, qd_dataset_check_timesteps(&data, schedule.train_steps));
	if (common->dry_run) {
		qd_print("would score %zu adapters on %lld samples\n", opened.n_adapters, (long long)data.n);
		goto out;
	}
	QD_TRY(st, qd_profile_score(&profile, &opened.model, opened.adapter_list, opened.n_adapters, &data, &qss->quant));
	if (common->output != NULL || qss->compare)
		QD_TRY(st, qd_profile_calibrate(&profile, &opened.model, opened.adapter_list, opened.n_adapters, &data));
	if (common->output != NULL) {
		QD_TRY(st, note_inputs(qss, &data, &profile));
		QD_TRY(st, qd_profile_write(&profile, common->output, common->force));
	}
	if (qss->compare) {
		compared = calloc(opened.n_adapters, sizeof(*compared));
		if (compared == NULL)
			QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
		QD_TRY(st, qd_profile_compare(&profile, &opened.model, opened.adapter_list, opened.n_adapters, &data, compared));
	}
	qd_progress_clear();
	if (common->json)
		QD_TRY(st, print_json(&profile, compared));
	else
		print_table(&profile, compared);
out:
	free(compared);
	qd_profile_release(&profile);
	qd_schedule_release(&schedule);
	qd_dataset_release(&data);
	qd_opened_release(&opened);
	return st;
}

int qd_cmd_qss(int argc, char **argv)
{
	struct qss qss = { .quant = qd_quant_options_default() };
	const struct qd_options options[] = { { data_table, &qss }, { quant_table, &qss } };
	enum qd_status st;

	qd_parse(argc, argv, doc, options, QD_COUNT(options),
		QD_COMMON_BASE | QD_COMMON_ADAPTER | QD_COMMON_OUTPUT | QD_COMMON_JSON | QD_COMMON_THREADS | QD_COMMON_DRY_RUN,
		QD_COMMON_BASE | QD_COMMON_ADAPTER, &qss.common);
	if (qss.compare && qss.quant.align == QD_ALIGN_NONE)
		qd_usage("--compare shows what alignment brings: needs --align gauge or gain");
	st = run(&qss);
	qd_texts_release(&qss.calib);
	qd_common_release(&qss.common);
	return qd_finish("qss", st);
}
