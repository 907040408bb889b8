/*
 * Text in memory: a stream whose bytes come to write_bytes, which grows the text. Once there is no room the stream has its error
 * set, as one on a full disk has.
 */
#include "lib/base/base.h"

#include <stdlib.h>
#include <string.h>

static ssize_t write_bytes(void *cookie, const char *bytes, size_t n)
{
	struct qd_text *text = cookie;
	if (qd_grow(&text->bytes, &text->cap, text->n + n + 1, sizeof(*text->bytes)) != QD_OK)
		return 0;
	memcpy(text->bytes + text->n, bytes, n);
	text->n += n;
	return (ssize_t)n;
}

enum qd_status qd_text_open(struct qd_text *text)
{
	*text = (struct qd_text){ 0 };
	text->stream = fopencookie(text, "w", (cookie_io_functions_t){ .write = write_bytes });
	return text->stream != NULL ? QD_OK : qd_fail(QD_ENOMEM, "out of memory");
}

enum qd_status qd_text_end(struct qd_text *text)
{
	bool lost = fflush(text->stream) != 0 || ferror(text->stream) != 0;
	if (lost || qd_grow(&text->bytes, &text->cap, text->n + 1, sizeof(*text->bytes)) != QD_OK)
		return qd_fail(QD_ENOMEM, "out of memory for a text of more than %zu bytes", text->n);
	text->bytes[text->n] = '\0';
	return QD_OK;
}

char *qd_text_take(struct qd_text *text)
{
	char *bytes = text->bytes;
	text->bytes = NULL;
	return bytes;
}

void qd_text_release(struct qd_text *text)
{
	if (text->stream != NULL)
		fclose(text->stream);
	free(text->bytes);
	*text = (struct qd_text){ 0 };
}
