#pragma once

#include <filesystem>

namespace vmoe {

/// Writes `run_dir/report.html`: one self-contained page about a run,
/// finished or not, that opens offline.
/// Reads `config.json` and `metrics.jsonl`, and `routing.json` where there is one. Of metrics lines
/// of one kind and step the last counts (a resumed run repeats steps), and a `final` line is the
/// evaluation of its step. The page depends on these files only, so writing it twice gives the same
/// bytes. An older report is replaced in one step. Errors: io_error naming file, and line or
/// element, if a file is missing, unreadable or not what the trainer writes; an older report is
/// then left alone. Cost: linear in the files; a training curve of more than 2000 points is thinned
/// by averaging neighbours.
void write_report(const std::filesystem::path& run_dir);

}  // namespace vmoe
