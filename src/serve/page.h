/* SPDX-License-Identifier: Apache-2.0
 *
 * The page: one HTML document, made of the files in page/ by the build (cmake/page.cmake).
 */
#ifndef SERVE_PAGE_H
#define SERVE_PAGE_H

#include <stddef.h>

extern const unsigned char page_bytes[]; /* [page_size] */
extern const size_t page_size;

#endif
