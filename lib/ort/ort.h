/*
 * lib/ort: runs ONNX files with ONNX Runtime, found when the program runs. Nothing of it is needed to build: its C interface is one
 * table of function pointers that is only ever appended to, so the slots used are named in ort.c and any release from 1.20 on will
 * do.
 */
#ifndef QUAD_LIB_ORT_ORT_H
#define QUAD_LIB_ORT_ORT_H

#include "lib/io/io.h"

struct qd_ort;
struct qd_ort_session;

/*
 * Loads the library: `path` when given; else the file that $QUAD_ORT_LIB names; else libonnxruntime.so.1 and libonnxruntime.so of
 * the system; else libonnxruntime.so.1 in ort/ beside the program, where scripts/get-onnxruntime.sh puts it for build/quad, or in
 * ../lib/quad from it, for an installed one. QD_EUNSUPPORTED in one line when there is none or it is too old.
 */
QD_CHECK enum qd_status qd_ort_open(struct qd_ort **ort, const char *path);
void qd_ort_close(struct qd_ort *ort);
/* "1.30.0" */
const char *qd_ort_version(const struct qd_ort *ort);

struct qd_ort_options {
	int threads;         /* 0: the library's choice */
	const char *profile; /* prefix of a JSON trace of operator times that is written when the session ends; NULL: none */
};
/* Loads a model file (external data beside it). `ort` must outlive the session. QD_EINPUT with the library's message. */
QD_CHECK enum qd_status qd_ort_session_new(
	struct qd_ort_session **session, struct qd_ort *ort, const char *model, const struct qd_ort_options *options);
void qd_ort_session_free(struct qd_ort_session *session);
/*
 * One run. `feeds` by name, any dtype of the file's inputs; `adapter` (may be NULL) is an .onnx_adapter file whose tensors are fed
 * too, and win over feeds of the same name; `outputs` by name, with the dtype, shape and room that the model gives. QD_EINPUT with
 * the library's message.
 */
QD_CHECK enum qd_status qd_ort_run(struct qd_ort_session *session, const struct qd_tensor *feeds, size_t n_feeds,
	const char *adapter, struct qd_tensor *outputs, size_t n_outputs);

#endif
