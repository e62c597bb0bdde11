// libqdr for C++17: the same calls, with memory that frees itself and errors that are thrown.
//
// Part of qdr-edge. Not a medical device.
#ifndef QDR_QDR_HPP
#define QDR_QDR_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "qdr/qdr.h"

namespace qdr {

// What a call that cannot be answered throws; images never do.
class Error : public std::runtime_error {
  public:
    Error(qdr_status status, const std::string &what)
        : std::runtime_error(std::string(qdr_status_text(status)) + (what.empty() ? "" : ": ") +
                             what),
          status_(status) {}
    qdr_status status() const noexcept { return status_; }

  private:
    qdr_status status_;
};

// An opened bundle with an arena of its own. One thread at a time; the bundle's bytes are the
// caller's and must stay.
class Device {
  public:
    // Opens for images of at most these sides: the native target, or with `how` any other.
    Device(const std::uint8_t *bundle, std::size_t size, const qdr_trust &trust,
           std::uint32_t minimum_security_version, std::uint32_t width, std::uint32_t height,
           const qdr_parallel *parallel = nullptr, qdr_selection *how = nullptr)
        : device_(new qdr_device()) {
        qdr_bundle_error why{"", 0};
        qdr_status status =
            how == nullptr
                ? qdr_open(device_.get(), bundle, size, &trust, minimum_security_version, &why)
                : qdr_open_with(device_.get(), bundle, size, &trust, minimum_security_version, how,
                                &why);
        check(status, why.what);
        options_.parallel = parallel;
        bytes_ = qdr_arena_bytes(device_.get(), width, height,
                                 parallel == nullptr ? 1 : parallel->threads);
        if (bytes_ == 0) {
            throw Error(QDR_BAD_ARGUMENT, "sides or threads are out of range");
        }
        arena_.reset(::operator new(bytes_, alignment));
    }

    // Proves the device by its golden images; returns how many there were.
    std::uint32_t self_test(const qdr_decoder &decoder) {
        std::uint32_t tested = 0;
        check(qdr_self_test(device_.get(), &decoder, arena_.get(), bytes_, &options_, &tested), "");
        return tested;
    }

    // Decides about an image; nullptr stands for one that could not be decoded.
    qdr_result screen(const qdr_pixels_image *image) {
        qdr_result result;
        check(qdr_screen(device_.get(), image, arena_.get(), bytes_, &options_, &result), "");
        return result;
    }

    const qdr_manifest &manifest() const noexcept { return device_->bundle.manifest; }
    const qdr_device &handle() const noexcept { return *device_; }

  private:
    static constexpr std::align_val_t alignment{QDR_ARENA_ALIGNMENT};
    struct Free {
        void operator()(void *arena) const noexcept { ::operator delete(arena, alignment); }
    };
    struct Close {
        void operator()(qdr_device *device) const noexcept {
            qdr_close(device);
            delete device;
        }
    };

    static void check(qdr_status status, const char *what) {
        if (status != QDR_OK) {
            throw Error(status, what);
        }
    }

    std::unique_ptr<qdr_device, Close> device_; // its address must not change
    std::unique_ptr<void, Free> arena_;
    std::size_t bytes_ = 0;
    qdr_run_options options_{};
};

} // namespace qdr

#endif
