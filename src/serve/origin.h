/* SPDX-License-Identifier: Apache-2.0
 *
 * Origin: whether a request may come from where it says. A server without keys trusts its own machine, and so
 * any page that a browser on it shows: such a page may send a form to it (Origin tells), or have its own name
 * lead here (DNS rebinding; Host tells). Both are refused, unless others are allowed anyway.
 */
#ifndef SERVE_ORIGIN_H
#define SERVE_ORIGIN_H

#include "serve/http.h"

bool origin_allowed(const exchange *x);

#endif
