/* The report as a table of text that is also Markdown, and as JSON. Decibels: mean +- standard error over samples. */
#include "export/report/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Texts in rows and columns; row 0 is the heading. */
struct table {
	const char **cells;
	size_t rows, columns;
};

static const char **cell_at(const struct table *t, size_t row, size_t column)
{
	return &t->cells[row * t->columns + column];
}

static const char *number(struct qd_arena *arena, double mean, double error)
{
	if (isnan(mean))
		return "-";
	return isinf(mean) ? "equal" : qd_arena_strf(arena, "%.1f \xC2\xB1 %.1f", mean, error);
}

/* Characters of UTF-8 text. */
static size_t length(const char *text)
{
	size_t n = 0;
	for (; *text != '\0'; text++)
		n += ((unsigned char)*text & 0xC0) != 0x80;
	return n;
}

static size_t column_width(const struct table *t, size_t column)
{
	size_t width = 3;
	for (size_t row = 0; row < t->rows; row++)
		width = length(*cell_at(t, row, column)) > width ? length(*cell_at(t, row, column)) : width;
	return width;
}

/* The first column is aligned to the left, the others to the right. */
static void print_cell(FILE *out, const char *text, size_t width, bool left)
{
	int pad = (int)(width - length(text));
	fprintf(out, "| %*s%s%*s ", left ? 0 : pad, "", text, left ? pad : 0, "");
}

static void print_rule(FILE *out, size_t width, bool left)
{
	fputs(left ? "|:" : "|-", out);
	for (size_t i = 0; i < width; i++)
		fputc('-', out);
	fputs(left ? "-" : ":", out);
}

static void print_table(FILE *out, const struct table *t)
{
	for (size_t row = 0; row < t->rows; row++) {
		for (size_t c = 0; c < t->columns; c++)
			print_cell(out, *cell_at(t, row, c), column_width(t, c), c == 0);
		fputs("|\n", out);
		for (size_t c = 0; row == 0 && c < t->columns; c++)
			print_rule(out, column_width(t, c), c == 0);
		if (row == 0)
			fputs("|\n", out);
	}
}

/* Fills the table for the comparison with the reference, or with the truth (which has one column more: the reference itself). */
static enum qd_status fill(const struct qd_report *r, struct qd_arena *arena, bool truth, struct table *t)
{
	t->rows = r->n + 1;
	t->columns = r->n_columns + (truth ? 2 : 1);
	t->cells = qd_arena_array(arena, t->rows * t->columns, sizeof(*t->cells));
	if (t->cells == NULL)
		return QD_ENOMEM;
	*cell_at(t, 0, 0) = qd_arena_strf(
		arena, "%s against %s, dB", qd_report_has_images(r) ? "PSNR" : "SQNR of latents", truth ? "the truth" : "float");
	for (size_t c = 0; c < r->n_columns; c++)
		*cell_at(t, 0, t->columns - r->n_columns + c) = r->columns[c];
	if (truth)
		*cell_at(t, 0, 1) = "float";
	for (size_t row = 0; row < r->n; row++) {
		*cell_at(t, row + 1, 0) = r->tasks[row].name;
		if (truth)
			*cell_at(t, row + 1, 1) =
				number(arena, r->reference[row].truth_mean, r->reference[row].truth_standard_error);
		for (size_t c = 0; c < r->n_columns; c++) {
			const struct qd_report_cell *cell = &r->cells[row * r->n_columns + c];
			double mean = cell->each == NULL ? NAN : (truth ? cell->truth_mean : cell->mean);
			*cell_at(t, row + 1, t->columns - r->n_columns + c) =
				number(arena, mean, truth ? cell->truth_standard_error : cell->standard_error);
		}
	}
	for (size_t i = 0; i < t->rows * t->columns; i++) {
		char *shown = t->cells[i] != NULL ? qd_arena_array(arena, 4 * strlen(t->cells[i]) + 1, 1) : NULL;
		if (shown == NULL)
			return QD_ENOMEM;
		qd_escape(shown, 4 * strlen(t->cells[i]) + 1, t->cells[i]);
		t->cells[i] = shown;
	}
	return QD_OK;
}

enum qd_status qd_report_text(const struct qd_report *r, char **text)
{
	enum qd_status st;
	struct qd_arena arena = { 0 };
	struct table reference, truth;
	struct qd_text out;
	bool has_truth = false;
	*text = NULL;
	QD_TRY(st, qd_text_open(&out));
	for (size_t t = 0; t < r->n; t++)
		has_truth |= r->tasks[t].truth != NULL;
	QD_TRY(st, fill(r, &arena, false, &reference));
	print_table(out.stream, &reference);
	if (has_truth) {
		QD_TRY(st, fill(r, &arena, true, &truth));
		fputc('\n', out.stream);
		print_table(out.stream, &truth);
	}
	QD_TRY(st, qd_text_end(&out));
	*text = qd_text_take(&out);
out:
	qd_text_release(&out);
	qd_arena_release(&arena);
	return st;
}

/* ---- JSON ---- */

/* JSON has no infinity: null says that nothing differs. What was not measured has no key. */
static json_t *real(double v)
{
	return isfinite(v) ? json_real(v) : json_null();
}

/* Adds "KEY_psnr_db" or "KEY_sqnr_db" and its standard error, where they were measured. */
static enum qd_status add_measured(const struct qd_report *r, json_t *object, const char *prefix, double mean, double error)
{
	char mean_key[64], error_key[64];

	if (isnan(mean))
		return QD_OK;
	snprintf(mean_key, sizeof(mean_key), "%s%s_db", prefix, qd_report_has_images(r) ? "psnr" : "sqnr");
	snprintf(error_key, sizeof(error_key), "%sstandard_error", prefix);
	if (json_object_set_new(object, mean_key, real(mean)) != 0 || json_object_set_new(object, error_key, real(error)) != 0)
		return qd_fail(QD_ENOMEM, "cannot write the report");
	return QD_OK;
}

static enum qd_status add_cell(const struct qd_report *r, const char *name, const struct qd_report_cell *cell, json_t **columns)
{
	json_t *each = json_array(), *column = json_pack("{s:s}", "name", name);
	enum qd_status st;

	QD_TRY(st, add_measured(r, column, "", cell->mean, cell->standard_error));
	QD_TRY(st, add_measured(r, column, "truth_", cell->truth_mean, cell->truth_standard_error));
	for (size_t i = 0; i < cell->n; i++)
		qd_json_append(&each, real(cell->each[i]));
	if (json_object_set(column, "samples", each) != 0)
		QD_TRY(st, qd_fail(QD_ENOMEM, "cannot write the report"));
	qd_json_append(columns, json_incref(column));
out:
	json_decref(each);
	json_decref(column);
	return st;
}

enum qd_status qd_report_json(const struct qd_report *r, json_t **out)
{
	json_t *tasks = json_array();
	enum qd_status st = QD_OK;

	for (size_t t = 0; st == QD_OK && t < r->n; t++) {
		json_t *columns = json_array(), *task = json_pack("{s:s}", "name", r->tasks[t].name);

		st = add_measured(r, task, "float_truth_", r->reference[t].truth_mean, r->reference[t].truth_standard_error);
		for (size_t c = 0; st == QD_OK && c < r->n_columns; c++)
			if (r->cells[t * r->n_columns + c].each != NULL)
				st = add_cell(r, r->columns[c], &r->cells[t * r->n_columns + c], &columns);
		if (st == QD_OK && json_object_set(task, "columns", columns) != 0)
			st = qd_fail(QD_ENOMEM, "cannot write the report");
		json_decref(columns);
		qd_json_append(&tasks, task);
	}
	*out = json_pack("{s:i,s:o}", "schema", 1, "tasks", tasks);
	if (st == QD_OK && *out == NULL)
		st = qd_fail(QD_ENOMEM, "cannot write the report");
	if (st != QD_OK) {
		json_decref(*out);
		*out = NULL;
	}
	return st;
}
