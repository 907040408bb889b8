/*
 * export/pass: what happens to a graph whose values carry encodings on its way into a file. One file per pass; their order is
 * pipeline.c, on one screen.
 *
 * A pass more: its file, its declaration below, and its place in the lists of pipeline.c.
 */
#ifndef QUAD_EXPORT_PASS_PASS_H
#define QUAD_EXPORT_PASS_PASS_H

#include "lib/onnx/onnx.h"

/* ---- passes (one file each) ---- */
/* Encodings become nodes: see qdq.c. `context` is a struct qd_stored_weights. */
extern const struct qd_pass qd_pass_qdq;
/* Equal constants of at most 64 bytes become one. No context. */
extern const struct qd_pass qd_pass_share_constants;

/* ---- their order (pipeline.c) ---- */
/* The passes over a graph whose values carry encodings, which they keep: what the float file holds. The options say after which
 * pass the graph is dumped. */
QD_CHECK enum qd_status qd_pipeline_float(struct qd_graph *g, const struct qd_pass_options *options);
/* Those that follow for the quantized file: the encodings become nodes. `stored` (zeroed; released by the caller) tells the writer
 * which weights are to be made from float. */
QD_CHECK enum qd_status qd_pipeline_quantized(
	struct qd_graph *g, const struct qd_pass_options *options, struct qd_stored_weights *stored);
/* The passes that these run, each once; NULL behind the last. */
const char *qd_pipeline_pass_name(size_t i);

#endif
