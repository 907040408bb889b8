/*
 * What quad eval runs: the graph that --base, --part, --adapter and --profile mean, opened for the sizes of the given inputs and
 * with all inputs bound.
 */
#ifndef QUAD_CMD_EVAL_H
#define QUAD_CMD_EVAL_H

#include "cmd/cmd.h"

struct qd_evaluated {
	const struct qd_common *common;
	const char *part; /* NULL: the UNet of a pipeline, or what the folder holds */
	struct qd_safetensors inputs;
	struct qd_opened opened; /* a UNet with its branches ... */
	struct qd_slots slots;
	struct qd_profile profile;
	struct qd_fitted fitted;
	struct qd_net net;
	struct qd_component component; /* ... or another component ... */
	struct qd_graph component_graph;
	struct qd_onnx onnx;      /* ... or an exported file */
	char declared[256];       /* an ONNX file's name of its first output, which as a UNet's is "out"; else empty */
	const struct qd_graph *g; /* the one of them that runs */
	struct qd_exec *exec;
};
/* `common`, `part` and `inputs` of a zeroed struct are set by the caller: opens the graph, prepares the executor, binds everything.
 */
QD_CHECK enum qd_status qd_evaluated_open(struct qd_evaluated *e);
void qd_evaluated_release(struct qd_evaluated *e);

#endif
