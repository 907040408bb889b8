#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/onnx_help.h"

enum qd_status onnx_open(struct qd_onnx *onnx, const char *path)
{
	enum qd_status st;

	*onnx = (struct qd_onnx){ 0 };
	QD_TRY(st, qd_onnx_load(&onnx->file, path));
	QD_TRY(st, qd_onnx_graph(&onnx->graph, onnx->file, NULL, 0));
out:
	if (st != QD_OK)
		qd_onnx_release(onnx);
	return st;
}
