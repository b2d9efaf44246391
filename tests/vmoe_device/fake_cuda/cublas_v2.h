#pragma once

// What moxie/backend/cuda/error.hpp names of cuBLAS.

enum cublasStatus_t { CUBLAS_STATUS_SUCCESS = 0 };

inline const char* cublasGetStatusName(cublasStatus_t) { return "CUBLAS_STATUS"; }
inline const char* cublasGetStatusString(cublasStatus_t) { return "a status"; }
