// Detect objects with an exported file, with only onnxruntime; same output as onnx_predict.py.
//
// See docs/export.md for how to compile it. Images are PPM files (P6), and also JPEG or PNG if
// stb_image.h is next to this file.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>
#if __has_include("stb_image.h")
#define STB_IMAGE_IMPLEMENTATION
#include "stb_image.h"
#endif

struct Image {  // RGB, one row after the other
  int64_t height = 0, width = 0;
  std::vector<double> pixels;
};

Image read_image(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  int width = 0, height = 0, most = 0;
  std::string kind;
  std::vector<unsigned char> bytes;
  if (file >> kind >> width >> height >> most && kind == "P6" && most == 255) {
    bytes.resize(size_t(3) * width * height);
    file.ignore(1).read(reinterpret_cast<char*>(bytes.data()), bytes.size());
    if (!file) throw std::runtime_error(path + " is truncated");
#ifdef STB_IMAGE_IMPLEMENTATION
  } else if (unsigned char* found = stbi_load(path.c_str(), &width, &height, nullptr, 3)) {
    bytes.assign(found, found + size_t(3) * width * height);
    stbi_image_free(found);
#endif
  } else {
    throw std::runtime_error(path + " is not an image of a supported format");
  }
  return {height, width, {bytes.begin(), bytes.end()}};
}

// The metadata of the model are JSON with unique names, so a text search is enough.
double number(const std::string& json, const std::string& name, double otherwise = NAN) {
  const size_t at = json.find('"' + name + "\": ");
  return at == std::string::npos ? otherwise : std::atof(json.c_str() + at + name.size() + 4);
}

// The strings or numbers of a list; empty if there is no such list.
std::vector<std::string> list(const std::string& json, const std::string& name) {
  std::vector<std::string> found;
  const size_t at = json.find('"' + name + "\": [");
  if (at == std::string::npos) return found;
  const std::regex item(R"rx(\s*(?:"((?:[^"\\]|\\.)*)"|([-0-9.]+))\s*([,\]]))rx");
  auto begin = json.begin() + at + name.size() + 5;
  for (std::smatch m; std::regex_search(begin, json.end(), m, item,
                                        std::regex_constants::match_continuous);) {
    found.push_back(m[1].matched ? std::regex_replace(m[1].str(), std::regex(R"(\\(.))"), "$1")
                                 : m[2].str());
    begin = m[0].second;
    if (m[3] == "]") break;
  }
  return found;
}

// Resize one axis from `old` pixels to `size` like Pillow's bilinear filter: a triangle as wide as
// the reduction. The axis is that of the rows or of the columns; the other has `lines` pixels.
std::vector<double> resize_axis(const std::vector<double>& from, int64_t old, int64_t size,
                                int64_t lines, bool rows) {
  std::vector<double> to(3 * size * lines);
  const double scale = std::max(double(old) / size, 1.0);
  for (int64_t i = 0; i < size; ++i) {
    const double centre = (i + 0.5) * old / size;
    const int64_t first = std::max<int64_t>(int64_t(centre - scale + 0.5), 0);
    const int64_t last = std::min<int64_t>(int64_t(centre + scale + 0.5), old);
    std::vector<double> weights;
    double sum = 0;
    for (int64_t x = first; x < last; ++x) {
      weights.push_back(std::max(1 - std::abs((x + 0.5 - centre) / scale), 0.0));
      sum += weights.back();
    }
    for (double& w : weights) w = std::floor(w / sum * (1 << 22) + 0.5);  // Pillow's fixed point
    for (int64_t line = 0; line < lines; ++line)
      for (int c = 0; c < 3; ++c) {
        double value = 1 << 21;
        for (int64_t x = first; x < last; ++x)
          value += weights[x - first] * from[3 * (rows ? x * lines + line : line * old + x) + c];
        to[3 * (rows ? i * lines + line : line * size + i) + c] =
            std::clamp(std::floor(value / (1 << 22)), 0.0, 255.0);
      }
  }
  return to;
}

int predict(int argc, char** argv) {
  if (argc < 3) throw std::runtime_error("expected model.onnx image [more images]");
  Ort::Env env;
  Ort::Session session(env, std::filesystem::path(argv[1]).c_str(), Ort::SessionOptions());
  Ort::AllocatorWithDefaultOptions allocator;
  const auto text =
      session.GetModelMetadata().LookupCustomMetadataMapAllocated("yolor_d2", allocator);
  if (!text) throw std::runtime_error(std::string(argv[1]) + " has no metadata of yolor_d2");
  const std::string about = text.get();
  const auto classes = list(about, "classes"), canvas = list(about, "canvas"),
             within = list(about, "within");
  if (about.find("Pillow") == std::string::npos)
    throw std::runtime_error("the model needs OpenCV's resize, which this example lacks");
  const auto given = list(about, "outputs");
  if (std::find(given.begin(), given.end(), "counts") == given.end())
    throw std::runtime_error("the model has no NMS: export it without --no-nms");
  const bool rgb = about.find("\"channel_order\": \"RGB\"") != std::string::npos;

  for (int argument = 2; argument < argc; ++argument) {
    const Image image = read_image(argv[argument]);
    const int64_t sides[2] = {image.height, image.width};
    double scale = std::min(number(about, "shorter_side") / std::min(sides[0], sides[1]),
                            number(about, "longer_side") / std::max(sides[0], sides[1]));
    if (!within.empty())  // the model has a fixed canvas size
      scale = std::min(std::stod(within[0]) / sides[0], std::stod(within[1]) / sides[1]);
    int64_t size[2], whole[2], place[2];
    for (int axis = 0; axis < 2; ++axis) {
      size[axis] = std::max<int64_t>(int64_t(sides[axis] * scale + number(about, "rounding")), 1);
      const double step = number(about, "multiple_of");
      whole[axis] = std::max<int64_t>(
          int64_t(std::ceil(size[axis] / step + number(about, "margin")) * step),
          int64_t(number(about, "at_least")));
      if (!canvas.empty()) whole[axis] = std::stoll(canvas[axis]);
      place[axis] = int64_t((whole[axis] - size[axis]) * number(about, "before"));
    }
    auto resized = resize_axis(image.pixels, sides[1], size[1], sides[0], false);
    resized = resize_axis(resized, sides[0], size[0], size[1], true);

    std::vector<float> pixels(3 * whole[0] * whole[1], float(number(about, "value")));
    for (int64_t y = 0; y < size[0]; ++y)
      for (int64_t x = 0; x < size[1]; ++x)
        for (int c = 0; c < 3; ++c)
          pixels[((rgb ? c : 2 - c) * whole[0] + y + place[0]) * whole[1] + x + place[1]] =
              float(resized[3 * (y * size[1] + x) + c]);
    const int64_t shape[4] = {1, 3, whole[0], whole[1]};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto input =
        Ort::Value::CreateTensor<float>(memory, pixels.data(), pixels.size(), shape, 4);
    const char* inputs[] = {"images"};
    const char* outputs[] = {"boxes", "scores", "labels", "counts"};
    const auto found = session.Run(Ort::RunOptions(), inputs, &input, 1, outputs, 4);
    const float* boxes = found[0].GetTensorData<float>();
    const int64_t count = found[3].GetTensorData<int64_t>()[0];
    for (int64_t i = 0; i < count; ++i) {
      double box[4];  // in pixels of the image
      for (int k = 0; k < 4; ++k) {
        const int axis = 1 - k % 2;
        box[k] = std::clamp<double>(boxes[4 * i + k] - place[axis], 0, size[axis]) * sides[axis] /
                 size[axis];
      }
      if (box[2] > box[0] && box[3] > box[1])  // not outside the image
        std::printf("%s %s %.4f %.1f %.1f %.1f %.1f\n", argv[argument],
                    classes.at(found[2].GetTensorData<int64_t>()[i]).c_str(),
                    found[1].GetTensorData<float>()[i], box[0], box[1], box[2], box[3]);
    }
  }
  return 0;
}

int main(int argc, char** argv) {
  try {
    return predict(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
}
