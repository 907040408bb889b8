/*
 * Any bytes as an ONNX file: refused with a message, or a graph that the verifier accepts.
 */
#include <stdlib.h>

#include "lib/model/onnx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qd_onnx onnx;
	if (qd_onnx_parse(&onnx, "fuzz", NULL, data, size) == QD_OK) {
		if (qd_graph_verify(&onnx.graph) != QD_OK)
			abort();
		qd_onnx_release(&onnx);
	} else if (!*qd_message()) {
		abort();
	}
	return 0;
}
