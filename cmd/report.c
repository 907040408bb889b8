/* quad report: PSNR of sampled outputs against the float ones, as a table, JSON and a contact sheet. */
#include "cmd/cmd.h"
#include "export/report/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_TASK = 0x400, KEY_REFERENCE, KEY_INPUT, KEY_TRUTH, KEY_COLUMN, KEY_PACK, KEY_SHOW, KEY_ZOOM, KEY_SHEET };

static const struct argp_option report_options[] = { { "task", KEY_TASK, "NAME", 0,
							     "begins a task: the four options below belong to the last one", 1 },
	{ "reference", KEY_REFERENCE, "FILE", 0, "the float samples, latents [N,Cl,H,W]", 1 },
	{ "input", KEY_INPUT, "FILE", 0, "picture [N,Cl,H,W], or condition [N,Cc,H,W], whose last Cl channels are shown", 1 },
	{ "truth", KEY_TRUTH, "FILE", 0, "the wanted latents: everything is measured against them too", 1 },
	{ "column", KEY_COLUMN, "NAME=FILE", 0, "samples to compare (repeat)", 1 },
	{ "pack", KEY_PACK, "N", 0, "latent channels are N x N blocks of pixels (default 1)", 2 },
	{ "sheet", KEY_SHEET, "FILE.png", 0, "draw a contact sheet", 2 },
	{ "show", KEY_SHOW, "N", 0, "samples of each task on the sheet (default 2)", 2 },
	{ "zoom", KEY_ZOOM, "N", 0, "enlargement on the sheet (default 2)", 2 }, { 0 } };

struct report_args {
	struct qd_report report;
	const char *sheet;
};

static struct qd_report_task *last_task(struct qd_report *r, struct argp_state *state)
{
	if (r->n == 0)
		argp_error(state, "--task NAME comes before its --reference, --input, --truth and --column");
	return &r->tasks[r->n - 1];
}

static error_t add_task(struct qd_report *r, const char *name)
{
	enum qd_status st;
	struct qd_report_task task = { .name = name };
	QD_PUSH(st, r->tasks, r->n, r->cap, task);
out:
	return st == QD_OK ? 0 : ENOMEM;
}

static error_t add_column(struct qd_report_task *task, char *arg, struct argp_state *state)
{
	enum qd_status st;
	char *equals = strchr(arg, '=');
	if (equals == NULL || equals == arg || equals[1] == '\0')
		argp_error(state, "--column %s is not NAME=FILE", arg);
	*equals = '\0';
	struct qd_report_column column = { .name = arg, .path = equals + 1 };
	QD_PUSH(st, task->columns, task->n, task->cap, column);
out:
	return st == QD_OK ? 0 : ENOMEM;
}

static error_t check_tasks(const struct qd_report *r, struct argp_state *state)
{
	if (r->n == 0)
		argp_error(state, "--task NAME is needed");
	for (size_t t = 0; t < r->n; t++)
		if (r->tasks[t].reference == NULL)
			argp_error(state, "task %s has no --reference", r->tasks[t].name);
	return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct report_args *args = state->input;
	struct qd_report *r = &args->report;
	switch (key) {
	case KEY_TASK:
		return add_task(r, arg);
	case KEY_REFERENCE:
		last_task(r, state)->reference = arg;
		return 0;
	case KEY_INPUT:
		last_task(r, state)->input = arg;
		return 0;
	case KEY_TRUTH:
		last_task(r, state)->truth = arg;
		return 0;
	case KEY_COLUMN:
		return add_column(last_task(r, state), arg, state);
	case KEY_PACK:
		r->pack = (int)qd_parse_int(state, "pack", arg, 1, 16);
		return 0;
	case KEY_SHOW:
		r->show = (int)qd_parse_int(state, "show", arg, 1, 16);
		return 0;
	case KEY_ZOOM:
		r->zoom = (int)qd_parse_int(state, "zoom", arg, 1, 16);
		return 0;
	case KEY_SHEET:
		args->sheet = arg;
		return 0;
	case ARGP_KEY_END:
		return check_tasks(r, state);
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

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

static enum qd_status report(struct report_args *args, const struct qd_common *common)
{
	enum qd_status st;
	struct qd_image sheet = { 0 };
	QD_TRY(st, qd_report_measure(&args->report));
	if (args->sheet != NULL) {
		QD_TRY(st, qd_report_sheet(&args->report, &sheet));
		QD_TRY(st, qd_image_write(args->sheet, &sheet, common->force));
	}
	QD_TRY(st, print_report(&args->report, common->json));
out:
	qd_image_release(&sheet);
	return st;
}

int qd_cmd_report(int argc, char **argv)
{
	struct report_args args = { .report = { .pack = 1, .show = 2, .zoom = 2 } };
	struct qd_common common = { 0 };
	qd_parse(argc, argv, "Compare sampled outputs with the float ones: PSNR table and contact sheet.", NULL,
		QD_OPT_JSON | QD_OPT_OUTPUT, report_options, parse, &args, &common);
	enum qd_status st = report(&args, &common);
	qd_report_release(&args.report);
	qd_common_release(&common);
	return qd_finish("report", st);
}
