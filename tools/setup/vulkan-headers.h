// What ggml-vulkan.cpp wants of Vulkan's headers and those before VK_EXT_layer_settings lack (Debian 12's 1.3.239).
// llama.cpp names the setting of a layer that checks programs; without that layer Vulkan passes it over.
//
// Source of the structures: the Vulkan specification, VK_EXT_layer_settings.

#pragma once

#include "ggml-vulkan-types.h"

#ifndef VK_EXT_layer_settings

#include <cstdint>
#include <vector>

namespace vk {

enum class LayerSettingTypeEXT : int32_t { eBool32 = 0 };

struct LayerSettingEXT {
    const char * layer;
    const char * name;
    LayerSettingTypeEXT type;
    uint32_t count;
    const void * values;
};

struct LayerSettingsCreateInfoEXT {
    int32_t type = 1000496000;
    const void * next = nullptr;
    uint32_t count;
    const LayerSettingEXT * settings;

    explicit LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> & all) :
        count(static_cast<uint32_t>(all.size())), settings(all.data()) {}
};

} // namespace vk

#endif
