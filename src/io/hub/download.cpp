// Talks to the hub: redirects, the token, retries, the list of files, and blobs piece by piece.
#include "io/hub/download.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <thread>

#include "core/error.h"
#include "core/file.h"
#include "io/hub/http.h"

namespace qalof::io {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kTriesToReach = 3;  // a hub that does not answer at all
constexpr int kTries = 5;         // without progress
constexpr int kMostRedirects = 10;
constexpr double kLongestWait = 300;   // seconds that a server may ask for
constexpr double kLongestReply = 120;  // seconds for a list of files
constexpr std::size_t kLargestReply = std::size_t{64} << 20;
constexpr int kMostPages = 200;  // of 1000 files each

std::string percent_encoded(std::string_view text, bool encode_slashes) {
  std::string result;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '_' || c == '.' || c == '~' ||
                       (c == '/' && !encode_slashes);
    result += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return result;
}

// The address of the next page: <...>; rel="next".
std::string next_page(const std::string& link) {
  const std::size_t begin = link.find('<');
  const std::size_t end = link.find('>', begin == std::string::npos ? 0 : begin);
  if (begin == std::string::npos || end == std::string::npos) return "";
  return link.find("rel=\"next\"", end) == std::string::npos
             ? ""
             : link.substr(begin + 1, end - begin - 1);
}

// Counts what all files have brought, for the display.
class Progress {
 public:
  Progress(const std::string& what, Observer& observer) : what_(what), observer_(observer) {}
  void expect(std::uint64_t bytes) {
    total_ += bytes;
    unit_ = total_ > 10'000'000 ? 1'000'000 : 1000;
  }
  void add(std::uint64_t bytes, const std::string& file) {
    const std::uint64_t before = done_ / unit_;
    done_ += bytes;
    if (done_ / unit_ != before || done_ >= total_) report(file);
  }
  void take_back(std::uint64_t bytes) { done_ -= std::min(bytes, done_); }
  void report(const std::string& file) const {
    const std::uint64_t total = (total_ + unit_ - 1) / unit_;
    const std::uint64_t done = done_ >= total_ ? total : std::min(done_ / unit_, total - 1);
    observer_.progress(what_, done, total, file, unit_ == 1000 ? "kB" : "MB");
  }

 private:
  std::string what_;
  Observer& observer_;
  std::uint64_t done_ = 0, total_ = 0, unit_ = 1000;
};

class Hub {
 public:
  Hub(const HubName& name, const HubSettings& settings, Observer& observer,
      std::function<bool()> should_stop)
      : name_(name),
        settings_(settings),
        observer_(observer),
        should_stop_(std::move(should_stop)),
        http_({settings.connect_seconds, settings.silence_seconds, settings.certificates,
               should_stop_}),
        endpoint_(http_.parse(settings.endpoint)),
        cache_(settings.cache, name.repository, settings.symlinks),
        progress_("downloading " + name.repository, observer) {
    QALOF_CHECK(endpoint_.is_secure() || endpoint_.is_loopback(), ErrorKind::kUsage,
                "HF_ENDPOINT: found {}, expected https: http is for this machine alone",
                settings.endpoint);
  }

  HubResult download(HubUse use) {
    HubResult result;
    observer_.status("looking for " + to_string(name_));
    const std::string commit = resolve_revision();
    const HubListing listing = list_files(commit);
    observer_.status("");
    std::vector<HubFile> files = select_files(listing, name_, use);
    result.commit = commit;
    cache_.make_directories();
    for (const HubFile& file : files) {
      if (file.path != kShardIndex) continue;
      fetch_all({file}, commit, result);
      const std::vector<HubFile> shards =
          list_shards(read_json_file(cache_.snapshot(commit) + "/" + kShardIndex), listing, name_);
      files.insert(files.end(), shards.begin(), shards.end());
      break;
    }
    fetch_all(files, commit, result);
    if (name_.file.empty()) {
      for (const std::string& path : optional_files(use)) {
        const bool is_listed = std::any_of(listing.begin(), listing.end(),
                                           [&](const HubFile& file) { return file.path == path; });
        if (!is_listed) cache_.set_lacks(commit, path);
      }
    }
    // Last: until then the revision stands for what was whole before.
    if (!is_commit(name_.revision)) cache_.set_commit(name_.revision, commit);
    for (const HubFile& file : files) {
      result.files.push_back(file.path);
      result.bytes += file.size;
    }
    result.path = cache_.snapshot(commit);
    if (!name_.file.empty()) result.path += "/" + name_.file;
    return result;
  }

 private:
  void check_stop() const {
    QALOF_CHECK(!should_stop_ || !should_stop_(), ErrorKind::kInterrupted, "stopped");
  }

  void sleep(double seconds) const {
    const Clock::time_point end =
        Clock::now() + std::chrono::milliseconds(std::lround(seconds * 1000));
    while (Clock::now() < end) {
      check_stop();
      std::this_thread::sleep_for(
          std::min<Clock::duration>(end - Clock::now(), std::chrono::milliseconds(100)));
    }
  }

  // Seconds before try number (from 1) is repeated: what the server asks for, else twice as long
  // each time.
  double wait_before(int number, const HttpResponse& response) const {
    const std::string asked = response.header("retry-after");
    double seconds = settings_.retry_seconds * std::pow(2, number - 1);
    if (!asked.empty() && asked.find_first_not_of("0123456789") == std::string::npos)
      seconds = std::stod(asked.substr(0, 9));
    QALOF_CHECK(seconds <= kLongestWait, ErrorKind::kNetwork,
                "{}: {} answers {} and asks to wait {} s; try again later", to_string(name_),
                settings_.endpoint, response.status, asked);
    return seconds;
  }

  // GET with redirects. Says in response.failure what an answer may not do.
  HttpResponse get(const HttpUrl& first, const std::vector<std::string>& headers,
                   const HttpClient::OnHead& on_head, const HttpClient::OnBody& on_body) {
    HttpUrl url = first;
    for (int hop = 0; hop <= kMostRedirects; ++hop) {
      std::vector<std::string> sent = headers;
      // The token is sent to the hub alone, not to hosts that it redirects to.
      if (!settings_.token.empty() && url.origin == endpoint_.origin)
        sent.push_back("Authorization: Bearer " + settings_.token);
      bool is_redirect = false;
      std::size_t dropped = 0;
      HttpResponse response = http_.get(
          url, sent,
          [&](const HttpResponse& head) {
            is_redirect =
                head.status >= 300 && head.status < 400 && !head.header("location").empty();
            return is_redirect || on_head(head);
          },
          [&](std::span<const std::byte> part) {
            if (!is_redirect) return on_body(part);
            constexpr std::size_t kMostText = std::size_t{64}
                                              << 10;  // reading it keeps the connection
            dropped += part.size();
            return dropped <= kMostText;
          });
      if (!is_redirect) {
        answered_by_hub_ = url.origin == endpoint_.origin;
        return response;
      }
      const HttpUrl target = http_.resolve(url, response.header("location"));
      const bool may = target.is_secure() || (!endpoint_.is_secure() && target.is_loopback());
      QALOF_CHECK(may, ErrorKind::kNetwork,
                  "{}: {} redirects to {:.200}, expected an https address", to_string(name_),
                  url.origin, target.origin);
      url = target;
    }
    fail(ErrorKind::kNetwork, "{}: {} redirects more than {} times", to_string(name_),
         settings_.endpoint, kMostRedirects);
  }

  // True for answers after which another try may succeed.
  bool may_pass(const HttpResponse& response) const {
    if (!response.failure.empty()) return response.may_pass;
    const int status = response.status;
    // Addresses of storage are signed for a while; the hub gives a new one.
    return status == 408 || status == 429 || status >= 500 || (status == 403 && !answered_by_hub_);
  }

  std::string account_advice() const {
    return settings_.token.empty()
               ? fmt::format("set HF_TOKEN to a token from {}/settings/tokens", settings_.endpoint)
               : "take a token that may read it: the one that is set may not";
  }

  // Says what an answer other than success means. what: the thing asked for.
  [[noreturn]] void fail_for(const HttpResponse& response, const std::string& what) const {
    const std::string& hub = settings_.endpoint;
    if (!response.failure.empty()) {
      fail(ErrorKind::kNetwork, "{}: {}: {}{}", what, hub, response.failure,
           response.may_pass ? "; check the connection, or use what is there with --offline or "
                               "HF_HUB_OFFLINE=1"
                             : "");
    }
    const std::string code = response.header("x-error-code");
    const std::string said = response.header("x-error-message");
    if (!answered_by_hub_) {
      fail(ErrorKind::kNetwork, "{}: the storage that {} names answers {}", what, hub,
           response.status);
    }
    if (said.starts_with("Invalid credentials")) {
      fail(ErrorKind::kNotFound,
           "{}: {} does not accept the token (HF_TOKEN or the one that was logged in with): it is "
           "mistyped or has expired",
           what, hub);
    }
    if (code == "GatedRepo" || response.status == 403) {
      fail(ErrorKind::kNotFound,
           "{}: is gated or not for everyone: accept its licence at {}/{}, then {}", what, hub,
           name_.repository, account_advice());
    }
    if (code == "RevisionNotFound") {
      fail(ErrorKind::kNotFound, "{}: the repository has no revision {}", what, name_.revision);
    }
    if (code == "EntryNotFound") fail(ErrorKind::kNotFound, "{}: {} has no such file", what, hub);
    if (code == "RepoNotFound" || response.status == 404 || response.status == 401) {
      fail(
          ErrorKind::kNotFound,
          "{}: {} has no such repository, or it is private or gated: check the name; for a private "
          "one {}",
          what, hub, account_advice());
    }
    fail(ErrorKind::kNetwork, "{}: {} answers {}{}{:.200}", what, hub, response.status,
         said.empty() ? "" : ": ", said);
  }

  // A JSON answer of the hub's interface; sets next to the address of the following page, or "".
  Json ask(const HttpUrl& url, HttpUrl* next) {
    for (int number = 1;; ++number) {
      std::string text;
      const Clock::time_point end =
          Clock::now() + std::chrono::seconds(static_cast<int>(kLongestReply));
      HttpResponse response = get(
          url, {"Accept: application/json"},
          [](const HttpResponse& head) { return head.status == 200; },
          [&](std::span<const std::byte> part) {
            QALOF_CHECK(text.size() + part.size() <= kLargestReply && Clock::now() < end,
                        ErrorKind::kNetwork, "{}: {} sends a list that does not end",
                        to_string(name_), settings_.endpoint);
            text.append(reinterpret_cast<const char*>(part.data()), part.size());
            return true;
          });
      if (response.failure.empty() && response.status == 200) {
        *next = {};
        if (const std::string link = next_page(response.header("link")); !link.empty())
          *next = http_.resolve(url, link);
        return parse_reply(text);
      }
      const int tries = response.failure.empty() ? kTries : kTriesToReach;
      if (number >= tries || !may_pass(response)) fail_for(response, to_string(name_));
      wait(number, response, name_.repository);
    }
  }

  Json parse_reply(const std::string& text) const {
    try {
      return parse_json(text, settings_.endpoint);
    } catch (const Error&) {
      fail(
          ErrorKind::kNetwork,
          "{}: {} does not answer as a hub does; check HF_ENDPOINT, and whether a proxy or a login "
          "page stands between",
          to_string(name_), settings_.endpoint);
    }
  }

  void wait(int number, const HttpResponse& response, const std::string& what) {
    const double seconds = wait_before(number, response);
    observer_.info(fmt::format("{}: {}; trying again in {:.1f} s", what,
                               response.failure.empty()
                                   ? fmt::format("the server answers {}", response.status)
                                   : response.failure,
                               seconds));
    sleep(seconds);
  }

  std::string resolve_revision() {
    if (is_commit(name_.revision)) return name_.revision;
    HttpUrl next;
    const Json info =
        ask(http_.parse(fmt::format("{}/api/models/{}/revision/{}", settings_.endpoint,
                                    name_.repository, percent_encoded(name_.revision, true))),
            &next);
    const auto sha = info.is_object() ? info.find("sha") : info.end();
    QALOF_CHECK(info.is_object() && sha != info.end() && sha->is_string() &&
                    is_commit(sha->get_ref<const std::string&>()),
                ErrorKind::kNetwork, "{}: {} tells no commit of revision {}", to_string(name_),
                settings_.endpoint, name_.revision);
    return sha->get<std::string>();
  }

  HubListing list_files(const std::string& commit) {
    HubListing listing;
    HttpUrl url = http_.parse(fmt::format("{}/api/models/{}/tree/{}?recursive=true&expand=false",
                                          settings_.endpoint, name_.repository, commit));
    for (int page = 0; !url.text.empty(); ++page) {
      QALOF_CHECK(page < kMostPages, ErrorKind::kNetwork, "{}: {} sends a list that does not end",
                  to_string(name_), settings_.endpoint);
      HttpUrl next;
      const Json json = ask(url, &next);
      add_listing_page(json, settings_.endpoint, listing);
      QALOF_CHECK(next.text.empty() || next.origin == endpoint_.origin, ErrorKind::kNetwork,
                  "{}: the list goes on at {}, expected {}", to_string(name_), next.origin,
                  endpoint_.origin);
      url = next;
    }
    return listing;
  }

  void check_disk(const std::vector<const HubFile*>& files) const {
    std::uint64_t needed = 0;
    for (const HubFile* file : files) {
      std::error_code error;
      const std::uintmax_t there = fs::file_size(cache_.incomplete(*file), error);
      needed += file->size - (error ? 0 : std::min<std::uint64_t>(there, file->size));
    }
    const auto free = free_disk_bytes(cache_.path());
    QALOF_CHECK(!free || needed <= *free, ErrorKind::kResource,
                "{}: needs {} MB of disk, {} has {} MB; HF_HUB_CACHE names another place",
                to_string(name_), needed / 1'000'000, settings_.cache, *free / 1'000'000);
  }

  // Brings files into the cache and shows them in the commit's snapshot.
  void fetch_all(const std::vector<HubFile>& files, const std::string& commit, HubResult& result) {
    std::vector<const HubFile*> missing;
    for (const HubFile& file : files) {
      if (cache_.has_blob(file)) {
        cache_.show(commit, file);
      } else if (settings_.symlinks || !cache_.has(commit, file.path)) {
        missing.push_back(&file);
        progress_.expect(file.size);
      }
    }
    if (missing.empty()) return;
    check_disk(missing);
    progress_.report("");
    for (const HubFile* file : missing) {
      fetch(*file, commit, result);
      cache_.show(commit, *file);
    }
  }

  void fetch(const HubFile& file, const std::string& commit, HubResult& result) {
    const std::string what = fmt::format("{}: {}", to_string(name_), file.path);
    const HubLock lock(cache_.lock(file), what, observer_, should_stop_);
    if (cache_.has_blob(file)) return progress_.add(file.size, file.path);
    for (bool is_second = false;; is_second = true) {
      IncompleteBlob blob(cache_.incomplete(file, lock.is_held()), file);
      const bool was_resumed = blob.size() > 0;
      progress_.add(blob.size(), file.path);
      result.downloaded += complete(blob, file, commit, what);
      std::string found;
      if (blob.finish(cache_.blob(file), &found)) return;
      progress_.take_back(file.size);
      // What an earlier process left may have been damaged; what came now is the server's.
      QALOF_CHECK(was_resumed && !is_second, ErrorKind::kNetwork,
                  "{}: arrived with {} {}, expected {}; nothing of it was kept", what,
                  file.hash.size() == found.size() && found.size() == 64 ? "sha256" : "git sha1",
                  found, file.hash);
    }
  }

  // Fills a blob; returns the bytes that came.
  std::uint64_t complete(IncompleteBlob& blob, const HubFile& file, const std::string& commit,
                         const std::string& what) {
    const HttpUrl url =
        http_.parse(fmt::format("{}/{}/resolve/{}/{}", settings_.endpoint, name_.repository, commit,
                                percent_encoded(file.path, false)));
    std::uint64_t came = 0, best = blob.size();
    for (int number = 1; !blob.is_full();) {
      check_stop();
      HttpResponse response = fetch_rest(blob, url, file, what, &came);
      if (blob.is_full()) break;
      const bool is_short = response.failure.empty() && response.status < 300;
      if (blob.size() > best) number = 1;
      best = std::max(best, blob.size());
      if (response.status == 416 && response.failure.empty()) fail_for_length(blob, file, what);
      if (is_short) {
        response.failure =
            fmt::format("the connection ends after {} of {} bytes", blob.size(), file.size);
        response.may_pass = true;
      }
      if (number >= kTries || !may_pass(response)) fail_for(response, what);
      wait(number++, response, what);
    }
    return came;
  }

  [[noreturn]] void fail_for_length(IncompleteBlob& blob, const HubFile& file,
                                    const std::string& what) const {
    blob.remove();
    fail(ErrorKind::kNetwork, "{}: the file that is sent is not {} bytes long, as the hub lists it",
         what, file.size);
  }

  // One request for what a blob lacks.
  HttpResponse fetch_rest(IncompleteBlob& blob, const HttpUrl& url, const HubFile& file,
                          const std::string& what, std::uint64_t* came) {
    std::vector<std::string> headers = {"Accept-Encoding: identity"};
    if (blob.size() > 0) headers.push_back(fmt::format("Range: bytes={}-", blob.size()));
    bool is_other_length = false;
    HttpResponse response = get(
        url, headers,
        [&](const HttpResponse& head) {
          if (head.status == 206) {
            const std::string expected =
                fmt::format("bytes {}-{}/{}", blob.size(), file.size - 1, file.size);
            is_other_length = head.header("content-range") != expected;
            return !is_other_length;
          }
          if (head.status != 200) return false;
          const std::string length = head.header("content-length");
          is_other_length = !length.empty() && length != std::to_string(file.size);
          if (is_other_length) return false;
          progress_.take_back(blob.size());
          if (blob.size() > 0) blob.clear();  // the server knows no ranges
          return true;
        },
        [&](std::span<const std::byte> part) {
          if (!blob.append(part)) is_other_length = true;
          if (is_other_length) return false;
          *came += part.size();
          progress_.add(part.size(), file.path);
          return true;
        });
    if (is_other_length) fail_for_length(blob, file, what);
    return response;
  }

  const HubName& name_;
  const HubSettings& settings_;
  Observer& observer_;
  std::function<bool()> should_stop_;
  HttpClient http_;
  HttpUrl endpoint_;
  HubRepository cache_;
  Progress progress_;
  bool answered_by_hub_ = true;
};

// The files of a snapshot on disk, as if a hub listed them.
HubListing list_snapshot(const std::string& snapshot) {
  HubListing listing;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(snapshot, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::uintmax_t size = entry->is_regular_file(error) ? entry->file_size(error) : 0;
    if (!entry->is_directory(error))
      listing.push_back({entry->path().lexically_relative(snapshot).string(), size, ""});
  }
  return listing;
}

}  // namespace

HubResult find_in_cache(const HubName& name, HubUse use, const HubSettings& settings, bool sure,
                        std::string* missing) {
  const HubRepository cache(settings.cache, name.repository, settings.symlinks);
  HubResult result;
  const std::optional<std::string> commit = cache.find_commit(name.revision);
  std::string lacks = "revision " + name.revision;
  if (commit && !is_directory(cache.snapshot(*commit))) lacks = "commit " + *commit;
  if (commit && is_directory(cache.snapshot(*commit)))
    lacks = missing_in_cache(cache, *commit, name, use, sure);
  if (missing != nullptr) *missing = lacks;
  if (!lacks.empty()) return result;
  result.commit = *commit;
  result.path = cache.snapshot(*commit);
  const HubListing listing = list_snapshot(result.path);
  std::vector<HubFile> files = select_files(listing, name, use);
  const bool is_sharded = std::any_of(files.begin(), files.end(),
                                      [](const HubFile& file) { return file.path == kShardIndex; });
  if (is_sharded) {
    const std::vector<HubFile> shards =
        list_shards(read_json_file(result.path + "/" + kShardIndex), listing, name);
    files.insert(files.end(), shards.begin(), shards.end());
  }
  for (const HubFile& file : files) {
    result.files.push_back(file.path);
    result.bytes += file.size;
  }
  if (!name.file.empty()) result.path += "/" + name.file;
  return result;
}

HubResult download(const HubName& name, HubUse use, const HubSettings& settings, Observer& observer,
                   const std::function<bool()>& should_stop) {
  return Hub(name, settings, observer, should_stop).download(use);
}

}  // namespace qalof::io
