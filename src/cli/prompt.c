/* SPDX-License-Identifier: Apache-2.0
 *
 * See prompt.h.
 */
#include "cli/prompt.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/status.h"
#include "cli/files.h"

/* A file or what another program writes; not a terminal, not /dev/null. */
static bool stdin_has_document(void) {
    struct stat s;
    return fstat(STDIN_FILENO, &s) == 0 && (S_ISREG(s.st_mode) || S_ISFIFO(s.st_mode) || S_ISSOCK(s.st_mode));
}

static const char *document_of(const prompt_source *from, bool has_words) {
    if (from->file)
        return from->file;
    if (!has_words)
        return from->words || !isatty(STDIN_FILENO) ? "-" : NULL;
    return !from->keep_stdin && stdin_has_document() ? "-" : NULL;
}

/* Without the newline that ends the last line. */
static nib_status read_document(const char *path, char **bytes, size_t *n, nib_error *err) {
    NIB_TRY(files_read_text(path, bytes, n, err));
    *n -= *n > 0 && (*bytes)[*n - 1] == '\n';
    *n -= *n > 0 && (*bytes)[*n - 1] == '\r';
    return NIB_OK;
}

nib_status prompt_read(const prompt_source *from, char **text, nib_error *err) {
    const char *words = from->words && strcmp(from->words, "-") != 0 ? from->words : NULL;
    const char *path = document_of(from, words != NULL);
    char *document = NULL;
    size_t n_words = words ? strlen(words) : 0, n = 0;
    *text = NULL;
    if (!words && !path)
        return NIB_OK;
    if (path)
        NIB_TRY(read_document(path, &document, &n, err));
    if (from->file && n == 0 && words) {
        mem_free(document);
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "%s: an empty file; expected the document that the prompt is about", from->file);
    }
    const size_t n_between = n_words && n ? 2 : 0;
    char *all = mem_alloc(n_words + n_between + n + 1);
    if (all) {
        memcpy(all, words ? words : "", n_words);
        memcpy(all + n_words, "\n\n", n_between);
        memcpy(all + n_words + n_between, n ? document : "", n);
        all[n_words + n_between + n] = 0;
    }
    mem_free(document);
    if (!all)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a prompt of %zu bytes", n_words + n);
    if (all[strspn(all, " \t\r\n")] == 0) {
        mem_free(all);
        return nib_fail(err, NIB_BAD_ARGUMENT, "the prompt is empty; expected some text");
    }
    *text = all;
    return NIB_OK;
}
