/*
 * Any bytes as JSON: refused with a message, or a value whose text reads back as an equal value.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	json_t *value, *again = NULL;
	if (qd_json_parse("fuzz", (const char *)data, size, &value) != QD_OK)
		return *qd_message() ? 0 : (abort(), 0);
	char *text = json_dumps(value, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
	if (text == NULL || qd_json_parse("again", text, strlen(text), &again) != QD_OK || !json_equal(value, again))
		abort();
	free(text);
	json_decref(again);
	json_decref(value);
	return 0;
}
