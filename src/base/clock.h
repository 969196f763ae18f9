/* SPDX-License-Identifier: Apache-2.0
 *
 * Time that passes, for durations. Any thread may ask.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

double clock_seconds(void); /* monotonic */

#endif
