/*
 * For this folder only: the parts of opening what runs.
 */
#ifndef QUAD_EXPORT_RUNTIME_INTERNAL_H
#define QUAD_EXPORT_RUNTIME_INTERNAL_H

#include "export/runtime/runtime.h"
#include "lib/ort/ort.h"

/* ---- onnx.c ---- */
/* Opens rt->onnx.file, loaded from `path`, as it stands: its graph, what executes it, the adapter. */
QD_CHECK enum qd_status qd_runtime_open_onnx(struct qd_runtime *rt, const char *path);

/* ---- ort_runner.c ---- */
/* A runner of the file `model`, whose graph is `g`, in ONNX Runtime. All three must stay. */
QD_CHECK enum qd_status qd_runner_open_ort(struct qd_runner *runner, const struct qd_graph *g, struct qd_ort *ort,
	const char *model, const struct qd_ort_options *options);

#endif
