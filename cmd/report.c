/* quad report: PSNR of sampled outputs against the float ones, as a table, JSON and a contact sheet. */
#include "cmd/cmd.h"
#include "export/report/report.h"
#include "export/runtime/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct report_args {
	struct qd_report report;
	const char *sheet, *decoder;
};

static enum qd_status last_task(void *into, struct qd_report_task **task)
{
	struct qd_report *r = &((struct report_args *)into)->report;

	if (r->n == 0)
		return qd_fail(QD_EINPUT, "--task NAME comes before its --reference, --input, --truth and --column");
	*task = &r->tasks[r->n - 1];
	return QD_OK;
}

static enum qd_status add_task(void *into, const struct qd_option *option, char *arg)
{
	struct qd_report *r = &((struct report_args *)into)->report;
	struct qd_report_task task = { .name = arg };
	enum qd_status st;

	(void)option;
	QD_PUSH(st, r->tasks, r->n, r->cap, task);
out:
	return st;
}

/* A text of the last task. */
static enum qd_status set_in_task(void *into, const struct qd_option *option, char *arg)
{
	struct qd_report_task *task = NULL;
	enum qd_status st = last_task(into, &task);

	if (st == QD_OK)
		*(const char **)((char *)task + option->at) = arg;
	return st;
}

static enum qd_status add_column(void *into, const struct qd_option *option, char *arg)
{
	struct qd_report_task *task = NULL;
	struct qd_report_column column = { .name = arg };
	char *equals = strchr(arg, '=');
	enum qd_status st;

	QD_TRY(st, last_task(into, &task));
	if (equals == NULL || equals == arg || equals[1] == '\0')
		return qd_fail(QD_EINPUT, "--%s %s is not NAME=FILE", option->name, arg);
	*equals = '\0';
	column.path = equals + 1;
	QD_PUSH(st, task->columns, task->n, task->cap, column);
out:
	return st;
}

#define FIELD(field) QD_FIELD(struct report_args, field)
#define OF_TASK(field) QD_FIELD(struct qd_report_task, field)
static const struct qd_option table[] = {
	{ "task", QD_OPT_CALL, .call = add_task, .required = true, .arg = "NAME",
		.help = "begins a task: --reference, --input, --truth and --column belong to the last one" },
	{ "reference", QD_OPT_CALL, OF_TASK(reference), .call = set_in_task, .arg = "FILE",
		.help = "the float samples, latents [N,Cl,H,W]" },
	{ "input", QD_OPT_CALL, OF_TASK(input), .call = set_in_task, .arg = "FILE",
		.help = "picture [N,Cl,H,W], or condition [N,Cc,H,W], whose last Cl channels are shown" },
	{ "truth", QD_OPT_CALL, OF_TASK(truth), .call = set_in_task, .arg = "FILE",
		.help = "the wanted latents: everything is measured against them too" },
	{ "column", QD_OPT_CALL, .call = add_column, .arg = "NAME=FILE", .help = "samples to compare (repeat)" },
	{ "decode", QD_OPT_TEXT, FIELD(decoder), .arg = "DIR", .help = "pipeline or VAE whose decoder makes images of latents" },
	{ "pack", QD_OPT_INT, FIELD(report.pack), .low = 1, .high = 16, .arg = "N",
		.help = "latents are pixels, their channels N x N blocks", .absent = "they are no images" },
	{ "sheet", QD_OPT_TEXT, FIELD(sheet), .arg = "FILE.png", .help = "draw a contact sheet" },
	{ "show", QD_OPT_INT, FIELD(report.show), .low = 1, .high = 16, .arg = "N", .help = "samples of each task on the sheet" },
	{ "zoom", QD_OPT_INT, FIELD(report.zoom), .low = 1, .high = 16, .arg = "N", .help = "enlargement on the sheet" },
	{ 0 },
};

static enum qd_status print_report(const struct qd_report *r, bool as_json)
{
	enum qd_status st;
	json_t *document = NULL;
	char *text = NULL;
	if (as_json) {
		QD_TRY(st, qd_report_json(r, &document));
		QD_TRY(st, qd_print_json(document));
	} else {
		QD_TRY(st, qd_report_text(r, &text));
		fputs(text, stdout);
	}
out:
	free(text);
	return st;
}

static enum qd_status decode(void *decoder, const struct qd_tensor *latents, struct qd_tensor *images)
{
	return qd_decode(decoder, latents, images);
}

static enum qd_status report(struct report_args *args, const struct qd_common *common)
{
	enum qd_status st;
	struct qd_image sheet = { 0 };
	struct qd_decoder decoder = { 0 };
	for (size_t t = 0; t < args->report.n; t++) {
		const struct qd_report_task *task = &args->report.tasks[t];
		const char *const inputs[] = { task->reference, task->input, task->truth };
		QD_TRY(st, qd_check_apart(common, args->sheet, inputs, QD_COUNT(inputs)));
		QD_TRY(st, qd_check_apart(common, args->sheet, &args->decoder, 1));
		for (size_t i = 0; i < task->n; i++)
			QD_TRY(st, qd_check_apart(common, args->sheet, &task->columns[i].path, 1));
	}
	QD_TRY(st, qd_check_output(common, args->sheet));
	if (args->decoder != NULL) {
		QD_TRY(st, qd_decoder_open(&decoder, args->decoder));
		args->report.decode = decode;
		args->report.decode_context = &decoder;
	}
	QD_TRY(st, qd_report_measure(&args->report));
	if (args->sheet != NULL) {
		QD_TRY(st, qd_report_sheet(&args->report, &sheet));
		QD_TRY(st, qd_image_write(args->sheet, &sheet, common->force));
	}
	QD_TRY(st, print_report(&args->report, common->json));
out:
	qd_decoder_release(&decoder);
	qd_image_release(&sheet);
	return st;
}

int qd_cmd_report(int argc, char **argv)
{
	struct report_args args = { .report = { .show = 2, .zoom = 2 } };
	struct qd_common common = { 0 };
	enum qd_status st;

	qd_parse(argc, argv,
		"Compare sampled outputs with the float ones: PSNR table and contact sheet.\v"
		"With --decode latents become images through the VAE's decoder, with --pack they are pixels as they are; images "
		"are "
		"brought to [0,1] and clamped, and PSNR is 10 log10(1 / mean squared error), its peak being 1. Without either "
		"latents "
		"are compared as they are: SQNR, 10 log10(sum of squares of the float ones / sum of squared differences).",
		&(struct qd_options){ table, &args }, 1, QD_COMMON_JSON | QD_COMMON_FORCE, 0, &common);
	for (size_t t = 0; t < args.report.n; t++)
		if (args.report.tasks[t].reference == NULL)
			qd_usage("task %s has no --reference", args.report.tasks[t].name);
	st = report(&args, &common);
	qd_report_release(&args.report);
	qd_common_release(&common);
	return qd_finish("report", st);
}
