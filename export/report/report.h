/*
 * export/report: sampled outputs against each other and against what was wanted: a table and a contact sheet.
 */
#ifndef QUAD_EXPORT_REPORT_REPORT_H
#define QUAD_EXPORT_REPORT_REPORT_H

#include "lib/io/io.h"

/* ---- comparing samples (report.c, sheet.c) ---- */
/*
 * Sampled latents stand for images in [0,1]: by x = (1 + latent) / 2, their channels being pack x pack blocks of pixels
 * (PixelUnshuffle), or by (1 + y) / 2 of what a decoder makes of them. Latents of which neither is known are no images: they are
 * compared as they are.
 */
struct qd_report_column {
	const char *name, *path; /* a file with `latents` [N,Cl,H,W] */
};
struct qd_report_task {
	const char *name;
	const char *reference; /* the float samples that columns are measured against */
	const char
		*input; /* NULL, or the file with `picture` [N,Cl,H,W], or `condition` [N,Cc,H,W], whose last Cl channels are one */
	const char *truth; /* NULL, or a file with the wanted `latents` [N,Cl,H,W]: every column is measured against it too */
	struct qd_report_column *columns;
	size_t n, cap;
};
/* Over samples, in dB: the peak signal to noise ratio of images clamped to [0,1], whose peak is 1, or the signal to quantization noise
 * ratio of latents. NaN where not measured, infinite where nothing differs. */
struct qd_report_cell {
	double mean, standard_error;             /* against the reference */
	double truth_mean, truth_standard_error; /* against the truth */
	double *each;                            /* [samples], against the reference */
	size_t n;
};
struct qd_report {
	struct qd_report_task *tasks;
	size_t n, cap;
	int pack; /* 1 or more; 0: latents are no pixels */
	/* NULL, or what makes images f32 [N,C,h,w] in [-1,1], the caller's, of latents f32 [N,Cl,H,W]; it wins over `pack` */
	enum qd_status (*decode)(void *context, const struct qd_tensor *latents, struct qd_tensor *images);
	void *decode_context;
	int show; /* samples of each task on the sheet */
	int zoom; /* pixels of the sheet per pixel of an image */
	/* filled by qd_report_measure */
	const char **columns; /* their names, in the order in which tasks give them */
	size_t n_columns;
	struct qd_report_cell *cells;     /* [n][n_columns]; each is NULL where a task lacks the column */
	struct qd_report_cell *reference; /* [n]: the reference itself against the truth */
	struct qd_arena arena;
};
/* Whether images are compared: "PSNR"; else latents: "SQNR". */
bool qd_report_has_images(const struct qd_report *report);
/* QD_EINPUT names file, tensor, found and needed. */
QD_CHECK enum qd_status qd_report_measure(struct qd_report *report);
/* Draws rows of tasks and columns of images: input, float, then the columns; each cell's PSNR under its images. */
QD_CHECK enum qd_status qd_report_sheet(const struct qd_report *report, struct qd_image *sheet);
/* Aligned text, each line a row of a Markdown table; a heap string. A new reference of the same as JSON. */
QD_CHECK enum qd_status qd_report_text(const struct qd_report *report, char **text);
QD_CHECK enum qd_status qd_report_json(const struct qd_report *report, json_t **out);
void qd_report_release(struct qd_report *report);

/* n images f32 [n,C,h,w] made of a tensor [N,Cl,H,W], of its last `channels` (0: all), as the report does, or latents; heap memory. */
struct qd_images {
	float *pixels;
	size_t n;
	int channels, height, width;
	int64_t latent_channels;
};
QD_CHECK enum qd_status qd_images_read(
	struct qd_images *images, const struct qd_report *report, const char *path, const char *tensor, int64_t channels);
void qd_images_release(struct qd_images *images);

#endif
