/* SPDX-License-Identifier: Apache-2.0
 *
 * SANITIZED: built under a sanitizer, which takes about eight times as long and looks for another kind of
 * mistake. What walks the same code with more numbers is thinned there; what walks other code is not.
 */
#ifndef SANITIZED_H
#define SANITIZED_H

#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if !defined SANITIZED && (defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__)
#define SANITIZED 1
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#endif
