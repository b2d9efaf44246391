#pragma once

namespace vmoe {

/// The program's exit statuses.
enum Exit : int { exit_good = 0, exit_failed = 1, exit_usage = 2, exit_interrupted = 130 };

}  // namespace vmoe
