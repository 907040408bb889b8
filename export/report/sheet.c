/*
 * The contact sheet: one row per task, one column for the input, the float result and every compared column; each cell shows the
 * task's first samples side by side, with the column's PSNR over all samples under them.
 */
#include "export/report/report.h"
#include "lib/draw/draw.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MARGIN = 28, GAP = 18, INNER = 4, HEADER = 44, CAPTION = 34, LABEL = 15, SMALL = 11 };
enum { PAPER = 0xFFFFFF, INK = 0x202124, GREY = 0x6B7075, PALE = 0xEDEFF1, GOOD = 0x1A7F4B, BAD = 0xC0392B };

struct layout {
	int tile_width, tile_height, cell_width, row_height, columns, left;
};

static struct layout lay_out(const struct qd_report *r, const struct qd_images *first)
{
	struct layout l;
	double widest = 0;
	for (size_t t = 0; t < r->n; t++)
		widest = fmax(widest, qd_draw_text_width(LABEL, r->tasks[t].name));
	l.tile_width = first->width * r->zoom;
	l.tile_height = first->height * r->zoom;
	l.columns = (int)r->n_columns + 2;
	l.cell_width = r->show * l.tile_width + (r->show - 1) * INNER;
	/* a narrow column still has to hold its name */
	for (size_t c = 0; c < r->n_columns; c++)
		l.cell_width = (int)fmax(l.cell_width, ceil(qd_draw_text_width(LABEL, r->columns[c])));
	l.row_height = l.tile_height + CAPTION;
	l.left = MARGIN + (int)ceil(widest) + GAP;
	return l;
}

static int cell_x(const struct layout *l, int column)
{
	return l->left + column * (l->cell_width + GAP);
}

static int cell_y(const struct layout *l, size_t row)
{
	return MARGIN + HEADER + (int)row * (l->row_height + GAP);
}

static void centred(
	struct qd_image *sheet, const struct layout *l, int column, int baseline, double size, uint32_t colour, const char *text)
{
	double x = cell_x(l, column) + (l->cell_width - qd_draw_text_width(size, text)) / 2;
	qd_draw_text(sheet, x, baseline, size, colour, text);
}

static void draw_header(const struct qd_report *r, const struct layout *l, struct qd_image *sheet)
{
	int baseline = MARGIN + HEADER - 18;
	centred(sheet, l, 0, baseline, LABEL, GREY, "input");
	centred(sheet, l, 1, baseline, LABEL, INK, "float");
	for (size_t c = 0; c < r->n_columns; c++)
		centred(sheet, l, (int)c + 2, baseline, LABEL, INK, r->columns[c]);
	qd_draw_box(sheet, MARGIN, baseline + 9, sheet->width - 2 * MARGIN, 1, PALE);
}

/* Shows the first samples in a cell; a grey image with one channel becomes three. */
static enum qd_status draw_images(const struct qd_report *r, const struct layout *l, struct qd_image *sheet, size_t row, int column,
	const struct qd_images *images)
{
	size_t plane = (size_t)images->height * (size_t)images->width;
	float *rgb = malloc(3 * plane * sizeof(float));
	if (rgb == NULL)
		return qd_fail(QD_ENOMEM, "cannot draw");
	int used = r->show * l->tile_width + (r->show - 1) * INNER;
	for (int i = 0; i < r->show && (size_t)i < images->n; i++) {
		for (int c = 0; c < 3; c++)
			memcpy(rgb + (size_t)c * plane,
				images->pixels +
					((size_t)i * (size_t)images->channels + (size_t)(c < images->channels ? c : 0)) * plane,
				plane * sizeof(float));
		qd_draw_pixels(sheet, cell_x(l, column) + (l->cell_width - used) / 2 + i * (l->tile_width + INNER), cell_y(l, row),
			rgb, images->height, images->width, r->zoom);
	}
	free(rgb);
	return QD_OK;
}

static enum qd_status draw_file(const struct qd_report *r, const struct layout *l, struct qd_image *sheet, size_t row, int column,
	const char *path, const char *tensor, int64_t channels)
{
	enum qd_status st;
	struct qd_images images;
	QD_TRY(st, qd_images_read(&images, r, path, tensor, channels));
	if (images.height * r->zoom != l->tile_height || images.width * r->zoom != l->tile_width)
		st = qd_fail(QD_EINPUT, "'%s' holds images of %dx%d, needs %dx%d", path, images.height, images.width,
			l->tile_height / r->zoom, l->tile_width / r->zoom);
	if (st == QD_OK)
		st = draw_images(r, l, sheet, row, column, &images);
out:
	qd_images_release(&images);
	return st;
}

/* The input as a person should see it where the file has that (`picture`), else the image that the condition ends in. */
static enum qd_status draw_input(
	const struct qd_report *r, const struct layout *l, struct qd_image *sheet, size_t row, int64_t channels)
{
	enum qd_status st;
	struct qd_safetensors file = { 0 };
	const char *path = r->tasks[row].input;
	QD_TRY(st, qd_safetensors_open(&file, path));
	bool picture = qd_safetensors_find(&file, "picture") != NULL;
	qd_safetensors_release(&file);
	QD_TRY(st, draw_file(r, l, sheet, row, 0, path, picture ? "picture" : "condition", channels));
out:
	return st;
}

static void draw_number(const struct layout *l, struct qd_image *sheet, size_t row, int column, const struct qd_report_cell *cell)
{
	char text[64];
	if (isinf(cell->mean))
		snprintf(text, sizeof(text), "equal");
	else
		snprintf(text, sizeof(text), "%.1f \xC2\xB1 %.1f dB", cell->mean, cell->standard_error);
	/* 40 dB is a mean error of 2.5 steps of an 8-bit image, 28 dB is plain to see. */
	uint32_t colour = cell->mean >= 40 ? GOOD : (cell->mean < 28 ? BAD : INK);
	centred(sheet, l, column, cell_y(l, row) + l->tile_height + 20, SMALL, colour, text);
}

static void draw_truth(const struct layout *l, struct qd_image *sheet, size_t row, const struct qd_report_cell *reference)
{
	char text[64];
	if (!isfinite(reference->truth_mean))
		return;
	snprintf(text, sizeof(text), "%.1f dB to the truth", reference->truth_mean);
	centred(sheet, l, 1, cell_y(l, row) + l->tile_height + 20, SMALL, GREY, text);
}

static enum qd_status draw_row(
	const struct qd_report *r, const struct layout *l, struct qd_image *sheet, size_t row, int64_t channels)
{
	enum qd_status st;
	const struct qd_report_task *task = &r->tasks[row];
	qd_draw_text(sheet, MARGIN, cell_y(l, row) + l->tile_height / 2 + LABEL / 2, LABEL, INK, task->name);
	if (task->input != NULL)
		QD_TRY(st, draw_input(r, l, sheet, row, channels));
	QD_TRY(st, draw_file(r, l, sheet, row, 1, task->reference, "latents", 0));
	draw_truth(l, sheet, row, &r->reference[row]);
	for (size_t c = 0; c < r->n_columns; c++) {
		const struct qd_report_cell *cell = &r->cells[row * r->n_columns + c];
		for (size_t k = 0; cell->each != NULL && k < task->n; k++)
			if (!strcmp(task->columns[k].name, r->columns[c]))
				QD_TRY(st, draw_file(r, l, sheet, row, (int)c + 2, task->columns[k].path, "latents", 0));
		if (cell->each != NULL)
			draw_number(l, sheet, row, (int)c + 2, cell);
	}
out:
	return st;
}

enum qd_status qd_report_sheet(const struct qd_report *r, struct qd_image *sheet)
{
	enum qd_status st;
	struct qd_images first;
	memset(sheet, 0, sizeof(*sheet));
	if (!qd_report_has_images(r))
		return qd_fail(
			QD_EINPUT, "latents are no images, which a sheet shows: give --decode, or --pack where they are pixels");
	QD_TRY(st, qd_images_read(&first, r, r->tasks[0].reference, "latents", 0));
	struct layout l = lay_out(r, &first);
	QD_TRY(st, qd_image_new(sheet, cell_x(&l, l.columns) - GAP + MARGIN, cell_y(&l, r->n) - GAP + MARGIN));
	qd_draw_box(sheet, 0, 0, sheet->width, sheet->height, PAPER);
	draw_header(r, &l, sheet);
	for (size_t row = 0; row < r->n; row++)
		QD_TRY(st, draw_row(r, &l, sheet, row, first.latent_channels));
out:
	qd_images_release(&first);
	if (st != QD_OK)
		qd_image_release(sheet);
	return st;
}
